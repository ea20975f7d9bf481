"""Shards of encode and generate in threads, on Dask and on Ray: the same rows as here, and several at once."""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from data.artifact import Artifact
from data.config import Resources
from data.offline import VARIABLES, is_offline
from tasks.encode import EncodeConfig, encode
from tasks.generate import generate
from tasks.shards import cut, spread
from tests.tasks.scripted_generate import config_of, small_images, small_model, small_pairs, use_scripted_backend

IMAGES = 24


def test_shards_are_whole_batches_and_not_too_many() -> None:
    resources = Resources(batch_size=4, shard=6)
    assert [len(shard) for shard in cut(list(range(20)), resources)] == [8, 8, 4]  # 6 is no multiple of 4, 8 is
    assert [row for shard in cut(range(20), resources) for row in shard] == list(range(20))
    assert len(cut(range(10**6), resources)) <= 100


def test_here_nothing_of_prefect_is_needed() -> None:
    assert list(spread("add", partial(sum, start=1), [[1, 2], [3]], Resources())) == [([1, 2], 4), ([3], 4)]


def rows_of(folder: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Artifact, Artifact]:
    """Tokens and triplets of one small recipe in a store of its own."""
    monkeypatch.setenv("CIRQUE_HOME", str(folder / where))
    images, pairs = small_images(folder / f"{where}-images", IMAGES), small_pairs(folder / f"{where}-pairs", IMAGES, 5)
    resources = Resources(spread=where, shard=8, batch_size=4, chunk=4)
    tokens = encode.make(EncodeConfig(), images, resources=resources).artifact
    config = config_of(small_model(folder / "model"))
    return tokens, generate.make(config, pairs, images, resources=resources).artifact


@pytest.mark.slow
@pytest.mark.parametrize("where", ["threads", "dask", "ray"])
@pytest.mark.filterwarnings("ignore")  # of what the engines themselves leave open
@pytest.mark.usefixtures("prefect_server")
def test_same_rows_wherever_the_shards_run(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_scripted_backend()
    import models.backends.scripted as scripted  # type: ignore[import-not-found]

    cloudpickle.register_pickle_by_value(scripted)  # workers do not know the tests' folder of backends
    if where == "ray":
        pytest.importorskip("ray").cloudpickle.register_pickle_by_value(scripted)
    tokens, triplets = rows_of(tmp_path, "here", monkeypatch)
    others = rows_of(tmp_path, where, monkeypatch)
    assert [one.content for one in others] == [tokens.content, triplets.content]
    assert triplets.counts.kept == IMAGES
    asked = [artifact.counts.detail["asked"] for artifact in (triplets, others[1])]
    assert asked[0] == asked[1] == 2 * IMAGES  # a caption and a modification each, and none asked twice


class Elsewhere:
    """A process that was started long before the run, as those of an existing engine; in place of a task runner."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        assert self._pool.submit(hub_may_be_asked, 0).result()

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, *error: object) -> None:
        """It stays."""

    def submit(self, task: Any, parameters: dict[str, Any]) -> Any:
        return self._pool.submit(task.fn, **parameters)

    def end(self) -> None:
        self._pool.shutdown()


def hub_may_be_asked(shard: int) -> bool:
    import huggingface_hub

    return not (is_offline() or huggingface_hub.is_offline_mode())


def test_workers_of_an_existing_engine_ask_no_hub_if_none_may_be_asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    elsewhere = Elsewhere()
    try:
        monkeypatch.setattr("tasks.shards._runner", lambda resources: elsewhere)
        resources, asked = Resources(spread="dask", cluster="tcp://elsewhere:8786"), []
        for offline in ("0", "1", "0"):
            monkeypatch.setenv("HF_HUB_OFFLINE", offline)
            asked += [may for _, may in spread("ask", hub_may_be_asked, [1, 2], resources)]
    finally:
        elsewhere.end()
    assert asked == [True, True, False, False, True, True]


def wait(seconds: float) -> tuple[float, float]:
    """Work made of waiting, as for the answers of a server; when it began and ended."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("prefect_server", "store")
@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_shards_are_at_work_as_there_are_workers(workers: int) -> None:
    resources = Resources(spread="threads", spread_workers=workers)
    times = [times for _, times in spread("wait", wait, [1.0] * 6, resources)]
    assert max(sum(began <= moment < ended for began, ended in times) for moment, _ in times) == workers
