"""Several processes on this machine that train one network, each with its share of every batch."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from data.artifact import Artifact
from data.config import Resources
from data.progress import progress, reporting_to
from models.gradients import Processes
from tasks.cards import Origin
from tasks.features import pictures
from tasks.seed_run import total_steps
from tasks.train import TrainConfig, seed_starts, split_of, train_seeds

# How often the processes are looked after, in seconds.
LOOK = 0.5


def train_together(
    out: Path,
    config: TrainConfig,
    triplets: Artifact,
    images: Artifact,
    tokens: Artifact,
    started: Artifact | None,
    origin: Origin,
    groups: Sequence[int],
    resources: Resources,
) -> None:
    """Train all seeds with `resources.processes` processes; they see each other as those of torchrun do.

    The processes end when this one does, whatever ends it. What `groups` (of the split) are shared unevenly is refused.

    Raises:
        ValueError: what one of them refused; the others are stopped.
        RuntimeError: if there are not so many GPUs, or a process died.
    """
    count = resources.processes
    cpu = resources.device == "cpu" or not torch.cuda.is_available()
    if not cpu and torch.cuda.device_count() < count:
        raise RuntimeError(
            f"resources.processes is {count}, but torch sees {torch.cuda.device_count()} GPUs: each process needs one"
        )
    for rows in (min(config.batch_size, size) for size in groups):
        if rows % count:
            raise ValueError(
                f"a batch of {rows} triplets cannot be shared evenly by {count} processes; change batch_size"
            )
    news = multiprocessing.get_context("spawn").SimpleQueue()
    inputs = (out, config, triplets, images, tokens, started, origin, resources)
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    running = start_processes(_work, (shared, cpu, inputs, news), count, join=False)  # type: ignore[no-untyped-call]
    steps = total_steps(config, groups)
    finished = sum((out / f"seed-{seed}").exists() for seed in config.seeds)
    with progress(steps * len(config.seeds), "steps", steps * finished) as advance:
        try:
            while not running.join(timeout=LOOK):
                _hear(news, advance)
        except (ProcessRaisedException, ProcessExitedException) as error:
            _hear(news, advance)
            raise RuntimeError(f"a training process died: {error}") from error
        finally:
            for process in running.processes:
                process.kill()
        _hear(news, advance)


def _hear(news: Any, advance: Any) -> None:
    while not news.empty():
        kind, value = news.get()
        if kind == "refused":
            raise ValueError(value)
        advance(value)


class _Teller:
    """Passes the first process's steps on to the one that shows them."""

    def __init__(self, news: Any) -> None:
        self._news = news

    @contextmanager
    def phase(self, total: int | None, unit: str, done: int) -> Iterator[Any]:
        yield (lambda units: self._news.put(("steps", units))) if unit == "steps" else lambda units: None


def _work(rank: int, shared: dict[str, str], cpu: bool, inputs: tuple[Any, ...], news: Any) -> None:
    """One process: its share of every batch of every seed."""
    out, config, triplets, images, tokens, started, origin, resources = inputs
    os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=shared["WORLD_SIZE"])
    if not cpu:
        torch.cuda.set_device(rank)
    processes = Processes(cpu, resources.sharded)
    try:
        split = split_of(config, triplets, pictures(images))
        with reporting_to(_Teller(news) if rank == 0 else None):
            start = seed_starts(config, split, images, tokens, started, resources)
            train_seeds(out, config, start, split.groups, origin, processes)
    except ValueError as error:
        news.put(("refused", str(error)))
        raise
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
