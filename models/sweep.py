"""Ranking all images of one pool among themselves, with half the products.

The product of the tokens of i and j gives s(i, j) by its maxima over one axis and s(j, i) by those over the other. So
a panel of images meets only itself and what comes after it; for the later images, the shortlist remembers what the
earlier panels gave.
"""

from collections.abc import Iterator

import numpy as np
import torch

from models.ranking import (
    STRIP_BYTES,
    STRIP_IMAGES,
    Ranked,
    Shortlist,
    TokenSets,
    cut,
    native_scores,
    settle,
    strip_scores,
    tile_sizes,
)
from models.sift import sifted
from models.similarity import Direction, Unit, rounded, rounding_bound, tile

PANEL_BYTES = 128 * 2**20
"""Float32 tokens of one panel: they stay in memory while the panel meets the later images."""


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
        dtype: float32, bfloat16, or int16 for the native kernel; it decides the speed only.

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
            cells = (np.arange(strip.start, strip.stop) - panel.start, np.arange(len(strip)))
            if dtype == torch.int16:
                scores = sifted((some, loss), (block, block_loss), direction, own, barred=cells)[0]
            else:
                scores = strip_scores(some, block, direction)
            scores[cells] = -torch.inf
            own.add(strip.start, scores, ahead)
            continue
        theirs = shortlist.part(later)
        if dtype == torch.int16:
            scores, back = sifted((some, loss), (block, block_loss), direction, own, theirs)
            back = back.T
        else:
            scores, back = both_scores(some, block, direction)
        own.add(strip.start, scores, ahead)
        theirs.add(panel.start, back, rounding_bound(dtype, dim, tokens, block_loss, float(loss.max())))
    return settle(
        own, sets.subset(np.arange(panel.start, panel.stop)), sets, direction, np.arange(panel.start, panel.stop)
    )


def _strips(panel: range, count: int, bytes_each: int) -> Iterator[range]:
    """The panel itself and then all later rows, in strips; none holds rows of both."""
    size = max(1, min(STRIP_IMAGES, STRIP_BYTES // bytes_each))
    for part in (panel, range(panel.stop, count)):
        for start in range(part.start, part.stop, size):
            yield range(start, min(start + size, part.stop))


def both_scores(some: Unit, block: Unit, direction: Direction) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (P, n) of the panel's images as references and (n, P) of the block's, from the same products."""
    if some.tokens.dtype == torch.int16:
        one, other = native_scores(some, block)
        return (one, other.T) if direction == "reference" else (other, one.T)
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
