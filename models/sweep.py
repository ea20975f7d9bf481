"""Ranking all images of one pool among themselves, with half the products.

The product of the tokens of i and j gives s(i, j) by its maxima over one axis and s(j, i) by those over the other. So
a panel of images meets only itself and what comes after it; for the later images, the shortlist remembers what the
earlier panels gave.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch

from models.ranking import (
    STRIP_BYTES,
    STRIP_IMAGES,
    TILE_COLUMNS,
    Ranked,
    Shortlist,
    TokenSets,
    cut,
    settle,
    strip_scores,
    tile_sizes,
)
from models.similarity import Direction, Unit, normalised, rounded, rounding_bound, tile

PANEL_BYTES = 128 * 2**20
"""Float32 tokens of one panel: they stay in memory while the panel meets the later images."""
CALIBRATION_PAIRS = 500_000
"""Pairs of images below which measuring which type is faster costs more than it can save."""


def panels(sets: TokenSets) -> list[range]:
    """The panels of a pool: about twenty, because a panel's products with itself are not shared, but each bounded."""
    count = len(sets)
    size = max(1, min(max(256, count // 20), PANEL_BYTES // (4 * sets.tokens.shape[1] * sets.tokens.shape[2])))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def rank_panel(sets: TokenSets, panel: range, shortlist: Shortlist, direction: Direction, dtype: torch.dtype) -> Ranked:
    """The exact ranking of a panel's images among all others; the panels have to come in order.

    Args:
        sets: all N images.
        panel: consecutive rows.
        shortlist: of all N images, with what the earlier panels added; rows from the panel on are updated.
        direction: as of `models.ranking.top_k`.
        dtype: float32 or bfloat16; it decides the speed only.

    Returns:
        For each image of the panel its k best others.

    Raises:
        ValueError: naming an image whose tokens `normalised` refuses.
    """
    rows = slice(panel.start, panel.stop)
    some, loss = rounded(sets.unit(rows), dtype)
    tokens, dim = sets.tokens.shape[1:]
    own = shortlist.part(rows)
    for strip in _strips(panel, len(sets), tokens * dim * 4):
        later = slice(strip.start, strip.stop)
        block, block_loss = rounded(sets.unit(later), dtype)
        ahead = rounding_bound(dtype, dim, tokens, loss, float(block_loss.max()))
        if strip.start < panel.stop:
            scores = strip_scores(some, block, direction)
            scores[np.arange(strip.start, strip.stop) - panel.start, np.arange(len(strip))] = -torch.inf
            own.add(strip.start, scores, ahead)
            continue
        scores, back = _both(some, block, direction)
        own.add(strip.start, scores, ahead)
        behind = rounding_bound(dtype, dim, tokens, block_loss, float(loss.max()))
        shortlist.part(later).add(panel.start, back, behind)
    queries = TokenSets(sets.ids[rows], sets.tokens[rows], None if sets.mask is None else sets.mask[rows])
    return settle(own, queries, sets, direction, np.arange(panel.start, panel.stop))


def quickest(tokens: int, dim: int, pairs: int) -> torch.dtype:
    """The faster type for first passes on this machine, measured in some hundredths of a second; ranks do not depend
    on it. Only processors with units for bfloat16 gain from it, the others lose.

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
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        one, other = rounded(some, dtype)[0], rounded(block, dtype)[0]
        seconds[dtype] = min(_seconds(one, other) for _ in range(4))
    # A wide bound leaves more to settle, so bfloat16 has to be clearly faster.
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.75 * seconds[torch.float32] else torch.float32


def _strips(panel: range, count: int, bytes_each: int) -> Iterator[range]:
    """The panel itself and then all later rows, in strips; none holds rows of both."""
    size = max(1, min(STRIP_IMAGES, STRIP_BYTES // bytes_each))
    for part in (panel, range(panel.stop, count)):
        for start in range(part.start, part.stop, size):
            yield range(start, min(start + size, part.stop))


def _both(some: Unit, block: Unit, direction: Direction) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (P, n) of the panel's images as references and (n, P) of the block's, from the same products."""
    across, down = tile_sizes(some, block)
    one, other = torch.empty(len(some.tokens), len(block.tokens)), torch.empty(len(block.tokens), len(some.tokens))
    for left in range(0, len(some.tokens), across):
        queries = cut(some, left, across)
        for top in range(0, len(block.tokens), down):
            ahead, behind = tile(queries, cut(block, top, down))
            assert ahead is not None
            assert behind is not None
            if direction == "candidate":
                ahead, behind = behind, ahead
            one[left : left + across, top : top + down] = ahead
            other[top : top + down, left : left + across] = behind.T
    return one, other


def _seconds(queries: Unit, gallery: Unit) -> float:
    started = time.perf_counter()
    tile(queries, gallery)
    return time.perf_counter() - started
