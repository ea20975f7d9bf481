"""What a training takes of disk and memory, asked before its first step, and how many seeds fit side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data.config import Resources
from models.encoders import TrainableEncoder
from models.footprint import saved_bytes
from models.training import rows_of_step
from tasks.examples import Examples
from tasks.room import available_memory, require_batch, require_disk
from tasks.seed_run import total_steps

if TYPE_CHECKING:
    from tasks.train import TrainConfig

# Bytes of a Python process with torch in it, and steps below which starting one is not worth it.
_PROCESS, _WORTH = 10**9, 100


def room_for(
    out: Path, config: "TrainConfig", encoder: TrainableEncoder, examples: Examples, dtype: str, seeds: int,
    resources: Resources,
) -> int:  # fmt: skip
    """Refuse what does not fit, and say how many seeds to train at a time, each in a process of its own.

    One on a GPU, whose own message says when it is full. On a CPU as many as the memory holds, up to two for each core
    or `resources.seeds_at_once`: a small network gains little from a second core (measured: 1.3 times the steps), and
    two of them on two cores take twice.

    Args:
        out: where the checkpoints are going to lie.
        config: of the training.
        encoder, examples: of the first seed.
        dtype: that it computes in.
        seeds: still to be trained.
        resources: who trains.

    Raises:
        OSError: if the disk has no room for two checkpoints a seed and a state: trained weights, the best, AdamW's two
            moments.
        MemoryError: if a batch does not fit into memory.
    """
    written = sum(weight.nbytes for weight in encoder.parameters())
    trained = sum(weight.nbytes for _, weight in encoder.trainable())
    if encoder.device.type != "cpu":
        count = 1
    else:
        rows, each = _batch(config, encoder, examples, dtype)
        require_batch(rows, each, "triplets", "train.cached_rows")
        free = available_memory()
        # Weights, their gradients, the best, AdamW's two moments, and a batch.
        fit = seeds if free is None else free // (_PROCESS + written + 4 * trained + rows * each)
        count = min(_wished(config, examples.split.groups, seeds, resources), max(1, fit))
    require_disk(
        out, 2 * seeds * written + 4 * trained * count,
        f"training (two checkpoints of each of {seeds} seeds, a saved state)",
    )  # fmt: skip
    return count


def threads_for(config: "TrainConfig", groups: Sequence[int], resources: Resources) -> int:
    """Threads that each seed is trained with: the same whether others are finished and whatever memory is free, because
    sums round differently on more."""
    return max(1, torch.get_num_threads() // _wished(config, groups, len(config.seeds), resources))


@contextmanager
def threaded(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wished(config: "TrainConfig", groups: Sequence[int], seeds: int, resources: Resources) -> int:
    if resources.processes > 1 or (resources.device != "cpu" and torch.cuda.is_available()):
        return 1
    if resources.seeds_at_once is not None:
        return min(seeds, resources.seeds_at_once)
    worth = total_steps(config, groups) * len(config.seeds) >= _WORTH
    return min(seeds, 2 * torch.get_num_threads()) if worth and torch.get_num_threads() > 1 else 1


def _batch(config: "TrainConfig", encoder: TrainableEncoder, examples: Examples, dtype: str) -> tuple[int, int]:
    """Rows in hand at a time, and the bytes that one of them takes, as found by two."""
    _, first = rows_of_step(0, examples.split.groups, config.batch_size, 0)
    rows = min(config.cached_rows or len(first), len(first))
    if rows < 2:
        return rows, 0
    two, loss = examples.batch(first[:2]), config.objective()
    encoder.train()
    with torch.random.fork_rng(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        each = saved_bytes(lambda number: loss.encode(encoder, two.part(slice(number))))
    held = [tensor.nbytes // 2 for tensor in (two.reference, two.target, two.negatives) if tensor is not None]
    return rows, each + sum(held)
