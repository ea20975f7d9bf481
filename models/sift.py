"""Scores only where they may matter, by the native kernel: a rough pass over all pairs, a finer one over the few left.

What a shortlist already has, and what the rough scores prove at least, gives a floor that a query's k best reach. A
candidate whose rough score stays further below than it can be off is none of them.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.native import kernel
from models.similarity import Direction, Unit, rounding_bound

if TYPE_CHECKING:
    from models.ranking import Integers, Shortlist


def sifted(
    queries: tuple[Unit, Tensor],
    gallery: tuple[Unit, Tensor],
    direction: Direction,
    own: "Shortlist",
    theirs: "Shortlist | None" = None,
    barred: "tuple[Integers, Integers] | None" = None,
) -> tuple[Tensor, Tensor]:
    """Scores of queries with gallery images, -inf for those that cannot be among the best.

    Args:
        queries: Q sets and their losses, of `models.similarity.rounded` in int16.
        gallery: N sets, likewise.
        direction: as of `models.ranking.top_k`.
        own: the queries' shortlists, before these scores are added.
        theirs: the gallery images' shortlists, if they rank the queries in turn.
        barred: rows and columns, query by query, of pairs that are not ranked.

    Returns:
        (Q, N) scores for `own` and (Q, N) for `theirs`, off by no more than `rounding_bound` says.

    Raises:
        RuntimeError: where there is no kernel.
    """
    native = kernel()
    if native is None:
        raise RuntimeError("int16 needs the native kernel, and there is none here; rank in float32")
    (some, loss), (block, block_loss) = queries, gallery
    scores = native.rough(some, block)
    (_, t, dim), s = some.tokens.shape, block.tokens.shape[1]
    arithmetic = rounding_bound(torch.int16, dim, max(t, s), torch.zeros(1), 0.0)
    # What rounding to 8 bits changed comes on top of what rounding to 16 bits did.
    mean, worst = 1.01 * (scores.query_loss + loss.unsqueeze(1)).T
    block_mean, block_worst = 1.01 * (scores.gallery_loss + block_loss.unsqueeze(1)).T
    ahead = torch.outer(mean, 1 + block_worst) + block_worst + arithmetic
    behind = torch.outer(1 + worst, block_mean) + worst.unsqueeze(1) + arithmetic
    sides = [(scores.ahead, ahead), (scores.behind, behind)]
    if direction == "candidate":
        sides.reverse()
    wanted = _may_matter(*sides[0], own, barred)
    if theirs is not None:
        wanted |= _may_matter(sides[1][0].T, sides[1][1].T, theirs, None).T
    near = native.fine(some, block, wanted)
    return near if direction == "reference" else near[::-1]


def _may_matter(
    scores: Tensor, bound: Tensor, shortlist: "Shortlist", barred: "tuple[Integers, Integers] | None"
) -> Tensor:
    """(Q, n) bool: which of some candidates may be among the k best of all that are met, with these."""
    low = scores - bound
    if barred is not None:
        low[barred] = -torch.inf
    return scores + bound >= shortlist.floor(low).unsqueeze(1)
