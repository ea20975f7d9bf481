"""How fast this machine ranks: which number type is quickest, and how long a ranking will take.

Measured in a second or two of processor time, so that other programs on the machine hardly change the answer.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from models.native import kernel
from models.ranking import TILE_COLUMNS, Shortlist, cut, strip_scores, tile_sizes
from models.similarity import Unit, exact_scores, normalised, rounded, tile
from models.sweep import both_scores

CALIBRATION_PAIRS = 500_000
"""Pairs of images below which measuring which type is faster costs more than it can save."""
SAMPLE_QUERIES = 64
SAMPLE_IMAGES = 512
"""Size of the measured strip."""
LEFT = 8
"""One pair in so many is scored again, finely, by the native kernel: measured with 10,000 images (docs/ranking.md)."""
SIFTED = 128
"""Most images that the native kernel is measured with when ways are compared."""
CLEARLY = 0.75
"""Share of the time of the other way that a way has to stay below."""
OVERHEAD = 1.25
"""What reading, normalising and writing add to the measured parts (docs/ranking.md)."""


class Pace(NamedTuple):
    """Core-seconds of this machine for token sets of one shape.

    Attributes:
        dtype: "float32", "bfloat16" or, for the native kernel, "int16": the quickest way of a first pass.
        score: one score of a first pass in one direction, its share of the top k included.
        pair: both scores of a pair of images from one product, likewise.
        settle: settling one reference's ranking exactly.
    """

    dtype: str
    score: float
    pair: float
    settle: float

    def exact_seconds(self, references: int, images: int) -> float:
        """Core-seconds of ranking `references` of `images` images exactly."""
        swept = images * (images - 1) / 2 * self.pair
        alone = references * (images - 1) * self.score
        work = swept if pays_to_sweep(references, images) else alone
        return OVERHEAD * (work + references * self.settle)


def pays_to_sweep(references: int, images: int) -> bool:
    """Whether scoring all pairs once, for both ends, is less work than scoring the references alone.

    A sweep has images^2 / 2 products of which each costs a little more than one that serves one direction.
    """
    return references > 0.6 * images


def measured_pace(tokens: int, dim: int, depth: int) -> Pace:
    """Measure the pace for rankings of (T, D) token sets to `depth`."""
    dtype = quickest(tokens, dim, CALIBRATION_PAIRS)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(SAMPLE_QUERIES + SAMPLE_IMAGES, tokens, dim, generator=generator)
    unit = rounded(normalised(values), dtype)[0]
    queries, gallery = cut(unit, 0, SAMPLE_QUERIES), cut(unit, SAMPLE_QUERIES, SAMPLE_IMAGES)
    bound = torch.zeros(SAMPLE_IMAGES)

    def one() -> None:
        shortlist = Shortlist.empty(SAMPLE_QUERIES, 10**9, depth)
        native = dtype == torch.int16
        scores = _sifted(queries, gallery)[0] if native else strip_scores(queries, gallery, "reference")
        shortlist.add(0, scores, bound[:SAMPLE_QUERIES])

    def two() -> None:
        if dtype == torch.int16:
            ahead, behind = _sifted(queries, gallery)
        else:
            ahead, behind = both_scores(queries, gallery, "reference")
        Shortlist.empty(SAMPLE_QUERIES, 10**9, depth).add(0, ahead, bound[:SAMPLE_QUERIES])
        Shortlist.empty(SAMPLE_IMAGES, 10**9, depth).add(0, behind, bound)

    count = SAMPLE_QUERIES * SAMPLE_IMAGES
    return Pace(
        dtype=str(dtype).removeprefix("torch."),
        score=_least(one) / count,
        pair=_least(two) / count,
        settle=_settle_seconds(values[:SAMPLE_IMAGES], depth),
    )


def quickest(tokens: int, dim: int, pairs: int) -> torch.dtype:
    """The quickest way of a first pass on this machine, measured in some hundredths of a second; ranks do not depend on
    it. Only processors with units for bfloat16 gain from it, the others lose; int16 stands for the native kernel.

    Args:
        tokens, dim: T and D.
        pairs: how many pairs of images there are to score; for few, float32 without measuring.
    """
    if pairs < CALIBRATION_PAIRS:
        return torch.float32
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (
        normalised(torch.randn(max(1, TILE_COLUMNS // tokens), tokens, dim, generator=generator)) for _ in range(2)
    )
    across, down = tile_sizes(queries, gallery)
    some, block = cut(queries, 0, across), cut(gallery, 0, down)
    seconds = {dtype: _tile_seconds(some, block, dtype) for dtype in (torch.float32, torch.bfloat16)}
    # A wide bound leaves more to settle, so bfloat16 has to be clearly faster; so has the kernel, whose work on real
    # images is only guessed here.
    best = torch.bfloat16 if seconds[torch.bfloat16] < CLEARLY * seconds[torch.float32] else torch.float32
    if kernel() is None:
        return best
    one, other = (rounded(unit, torch.int16)[0] for unit in (some, cut(gallery, 0, SIFTED)))
    native = _least(lambda: _sifted(one, other), rounds=4) / len(other.tokens)
    return torch.int16 if native < CLEARLY * seconds[best] / len(block.tokens) else best


def _tile_seconds(queries: Unit, gallery: Unit, dtype: torch.dtype) -> float:
    one, other = rounded(queries, dtype)[0], rounded(gallery, dtype)[0]
    return _least(lambda: tile(one, other), rounds=4)


def _sifted(queries: Unit, gallery: Unit) -> tuple[torch.Tensor, torch.Tensor]:
    """The native kernel's work on a strip in the midst of a ranking: (Q, N) and (N, Q) scores."""
    native = kernel()
    assert native is not None
    rough = native.rough(queries, gallery).ahead
    left = (torch.arange(rough.numel()) % LEFT == 0).view(rough.shape)
    ahead, behind = native.fine(queries, gallery, left)
    return ahead, behind.T


def _settle_seconds(values: torch.Tensor, depth: int) -> float:
    """Core-seconds of the exact scores that one reference needs: of its k best and of half as many near them."""
    stored = values.half()
    rows = torch.arange(depth + depth // 2) % len(stored)
    return _least(lambda: exact_scores(stored[0], stored[rows], "reference"))


def _least(work: Callable[[], object], rounds: int = 3) -> float:
    """The least processor time of some rounds, all threads together."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best
