"""Work on shards of rows: here, in threads, or on an existing engine (Dask, Ray) through Prefect's task runners.

Nothing here schedules or talks over sockets. A shard writes what it made into the store (features, ledger), which all
workers have to see under the same path; only small values travel back.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from data.config import Resources
from data.offline import VARIABLES, is_offline
from data.progress import reporting_to
from tasks.store import home

S = TypeVar("S")
R = TypeVar("R")

_ROOT = Path(__file__).resolve().parents[1]
_STARTED_WITH = {name: os.environ[name] for name in VARIABLES if name in os.environ}
_MOST = 100
"""Shards that a known number of rows is cut into at most: Prefect keeps a record of each."""
_AHEAD = 3
"""Shards submitted per worker: one in work, one waiting, one on its way."""


def cut(rows: Sequence[S], resources: Resources) -> list[Sequence[S]]:
    """Consecutive shards of `resources.shard` rows, more if there would be too many shards, in whole batches.

    The batches are those of the uncut rows, so that the numbers computed do not depend on the cut.
    """
    wanted = max(resources.shard, ceil(len(rows) / _MOST))
    size = ceil(wanted / resources.batch_size) * resources.batch_size
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def spread(name: str, work: Callable[[S], R], shards: Iterable[S], resources: Resources) -> Iterator[tuple[S, R]]:
    """Each shard with what `work` gives for it, in order; a few per worker are under way at a time.

    Args:
        name: of the tasks, for Prefect's pages.
        work: a function that can be pickled by name, or a partial of one; it finds the store by CIRQUE_HOME, and asks
            no hub if none may be asked here.
        shards: drawn as they are needed.
        resources: `spread` says where, `spread_workers` how many, `cluster` which engine; no engine: one is started.

    Raises:
        ModuleNotFoundError: if the engine's package is not installed.
    """
    if resources.spread == "here":
        yield from ((shard, work(shard)) for shard in shards)
        return
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    submitted = task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(_at_home)
    ahead: deque[tuple[S, Any]] = deque()
    with _visible(), _runner(resources) as runner:
        for shard in shards:
            # A partial, because Prefect looks through parameters for futures, row by row.
            parameters = {"store": str(home()), "offline": is_offline(), "work": partial(work, shard)}
            ahead.append((shard, runner.submit(submitted, parameters=parameters)))
            if len(ahead) >= _AHEAD * resources.spread_workers:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()


def _at_home(store: str, offline: bool, work: Callable[[], R]) -> R:
    os.environ["CIRQUE_HOME"] = store
    _settle_offline(offline)
    with reporting_to(None):  # the rows are counted where the shards are collected
        return work()


def _settle_offline(offline: bool) -> None:
    """Ask no hub in this process, or be again as it was started: one of an existing engine serves many runs."""
    if offline == is_offline():
        return
    wanted = dict.fromkeys(VARIABLES, "1") if offline else _STARTED_WITH
    os.environ |= wanted
    for name in set(VARIABLES) - set(wanted):
        os.environ.pop(name, None)
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # it has read them already
        vars(constants)["HF_HUB_OFFLINE"] = is_offline()


def _runner(resources: Resources) -> Any:
    count, address = resources.spread_workers, resources.cluster
    if resources.spread == "threads":
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=count)
    try:
        if resources.spread == "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            local = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": None}
            return DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local)
        from prefect_ray.task_runners import RayTaskRunner

        local = {"num_cpus": count, "include_dashboard": False, "log_to_driver": False}
        return RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=local)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"resources.spread={resources.spread} needs prefect-{resources.spread} ({error}); 'uv sync' installs it",
            name=error.name,
        ) from error


@contextmanager
def _visible() -> Iterator[None]:
    """Let processes that an engine starts here import what this one does, and report to nobody."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    changed = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
