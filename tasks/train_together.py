"""Several processes on this machine that train: one network, each with its share of every batch, or each its own."""

import faulthandler
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from data.artifact import Artifact
from data.config import Resources
from data.lifeline import end_with
from data.progress import progress, reporting_to
from models.gradients import Processes
from tasks.cards import Origin
from tasks.examples import TextTokens
from tasks.features import pictures
from tasks.seed_run import total_steps
from tasks.train import TrainConfig, seed_starts, split_of, train_seeds

# How often the processes are looked after, in seconds.
LOOK = 0.5
# What one of them refuses, all of them refuse, in these words.
REFUSALS = (ValueError, OSError, MemoryError)


class Job(NamedTuple):
    """A training, as it is handed to its processes.

    Attributes:
        todo: the seeds that have no checkpoint yet.
        read: frozen texts as the base checkpoint reads them, if all seeds begin with that.
    """

    out: Path
    config: TrainConfig
    triplets: Artifact
    images: Artifact
    tokens: Artifact
    started: Artifact | None
    origin: Origin
    resources: Resources
    todo: tuple[int, ...]
    read: TextTokens | None = None


def train_together(job: Job, groups: Sequence[int]) -> None:
    """Train all seeds with `resources.processes` processes; they see each other as those of torchrun do.

    The processes end when this one does, whatever ends it. What `groups` (of the split) are shared unevenly is refused.

    Raises:
        ValueError, OSError, MemoryError: what one of them refused; the others are stopped.
        RuntimeError: if there are not so many GPUs, or a process died.
    """
    count = job.resources.processes
    cpu = job.resources.device == "cpu" or not torch.cuda.is_available()
    if not cpu and torch.cuda.device_count() < count:
        raise RuntimeError(
            f"resources.processes is {count}, but torch sees {torch.cuda.device_count()} GPUs: each process needs one"
        )
    for rows in (min(job.config.batch_size, size) for size in groups):
        if rows % count:
            raise ValueError(
                f"a batch of {rows} triplets cannot be shared evenly by {count} processes; change batch_size"
            )
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    _run(_share_batches, (shared, cpu), count, job, groups)


def train_apart(job: Job, groups: Sequence[int], count: int, threads: int) -> None:
    """Train the seeds in `count` processes of so many threads, which share nothing but the processor.

    Raises:
        ValueError, OSError, MemoryError: what one of them refused; the others are stopped.
        RuntimeError: if a process died.
    """
    _run(_train_own, (count, threads), count, job, groups)


def _run(work: Callable[..., None], settings: tuple[Any, ...], count: int, job: Job, groups: Sequence[int]) -> None:
    """Start processes, show their steps, and end with them."""
    news = multiprocessing.get_context("spawn").SimpleQueue()
    handed = (os.getpid(), work, *settings, job, news)
    running = start_processes(_process, handed, count, join=False)  # type: ignore[no-untyped-call]
    steps, seeds = total_steps(job.config, groups), len(job.config.seeds)
    with progress(steps * seeds, "steps", steps * (seeds - len(job.todo))) as advance:
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
        told = news.get()
        if isinstance(told, Exception):
            raise told
        advance(told)


class _Teller:
    """Passes steps on to the process that shows them."""

    def __init__(self, news: Any) -> None:
        self._news = news

    @contextmanager
    def phase(self, total: int | None, unit: str, done: int) -> Iterator[Any]:
        yield self._news.put if unit == "steps" else lambda units: None


@contextmanager
def _telling(news: Any, steps: bool) -> Iterator[None]:
    """Pass on what is refused, and steps if this process is to count them."""
    logging.disable(logging.WARNING)  # the process that started this one has warned already
    try:
        with reporting_to(_Teller(news) if steps else None):
            yield
    except REFUSALS as error:
        plain = type(error).__module__ == "builtins"  # others may not survive the way to another process
        news.put(error if plain else ValueError(str(error)))
        raise


def _train(job: Job, todo: Sequence[int], processes: Processes) -> None:
    split = split_of(job.config, job.triplets, pictures(job.images))
    start = seed_starts(job.config, split, job.images, job.tokens, job.started, job.resources, job.read)
    train_seeds(job.out, job.config, start, split.groups, job.origin, todo, processes)


def _process(rank: int, parent: int, work: Callable[..., None], *handed: Any) -> None:
    """Do one process's work and end: with the parent at the latest, and without taking the interpreter down.

    What there is to keep is on the disk then, and torch's own threads may abort a process whose interpreter goes away
    beneath them.
    """
    if not end_with(parent):  # torch asks for SIGINT then, which whatever runs in a shell's background ignores
        return
    if sys.stderr is not None:
        faulthandler.enable()  # says where, if it crashes all the same
    work(rank, *handed)
    with suppress(OSError, ValueError):  # nobody reads it any more
        sys.stdout.flush()
    os._exit(0)


def _share_batches(rank: int, shared: dict[str, str], cpu: bool, job: Job, news: Any) -> None:
    """One process: its share of every batch of every seed."""
    os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=shared["WORLD_SIZE"])
    if not cpu:
        torch.cuda.set_device(rank)
    with _telling(news, steps=rank == 0):
        _train(job, job.todo, Processes(cpu, job.resources.sharded))
    # Nobody hangs up on one who is not done.
    torch.distributed.barrier(device_ids=None if cpu else [rank])
    torch.distributed.destroy_process_group()


def _train_own(rank: int, count: int, threads: int, job: Job, news: Any) -> None:
    """One process: every step of its share of the seeds."""
    torch.set_num_threads(threads)
    with _telling(news, steps=True):
        _train(job, job.todo[rank::count], Processes())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
