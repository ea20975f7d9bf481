"""Exact ranks by token similarity, with memory bounded by a block.

Scores are those of `exact_scores`. Most are only needed roughly: a first pass over blocks gives each within a proven
rounding bound, and only those that the bound leaves open are computed exactly. So ranks, order and scores do not
depend on how the work is cut into blocks. Ties go by id, ascending.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.native import kernel
from models.sift import sifted
from models.similarity import Direction, Unit, exact_scores, normalised, rounded, rounding_bound, tile

Integers = npt.NDArray[np.int64]

STRIP_BYTES = 32 * 2**20
"""Float32 tokens of one strip of the gallery: read and normalised once, then met by every query at hand."""
STRIP_IMAGES = 2048
"""Most images of a strip; bounds the matrix of scores where a token set is small."""
TILE_COLUMNS = 2048
"""Query tokens in one matrix product; with TILE_ROWS, a product that stays in the processor's cache."""
TILE_ROWS = 512
"""Gallery tokens in one matrix product."""


@dataclass(frozen=True)
class TokenSets:
    """Token sets of images or queries, in memory or memory-mapped.

    Attributes:
        ids: N distinct names; they settle ties.
        tokens: (N, T, D) array, any floating type and scale; normalised block by block.
        mask: (N, T) bool, True where a token counts; None where all do.
    """

    ids: Sequence[str]
    tokens: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or len(self.ids) != len(self.tokens):
            raise ValueError(f"need (N, T, D) tokens and N ids, got {self.tokens.shape} and {len(self.ids)} ids")
        if self.mask is not None and self.mask.shape != self.tokens.shape[:2]:
            raise ValueError(f"need a mask of {self.tokens.shape[:2]}, got {self.mask.shape}")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def order(self) -> Integers:
        """(N,) place of each id among the sorted ids.

        Raises:
            ValueError: if an id appears twice.
        """
        ids = np.array(self.ids, dtype=object)
        by_id = np.argsort(ids, kind="stable")
        for before, after in itertools.pairwise(by_id):
            if ids[before] == ids[after]:
                raise ValueError(f"id {ids[before]!r} appears twice; a ranking needs distinct ids")
        places = np.empty(len(ids), dtype=np.int64)
        places[by_id] = np.arange(len(ids))
        return places

    def rows(self, rows: slice | Integers) -> tuple[Tensor, Tensor | None]:
        """Copies of some rows as they are stored: tokens and mask."""
        mask = None if self.mask is None else torch.from_numpy(np.array(self.mask[rows]))
        return torch.from_numpy(np.array(self.tokens[rows])), mask

    def subset(self, rows: Integers) -> "TokenSets":
        """Some images, copied into memory."""
        mask = None if self.mask is None else self.mask[rows]
        return TokenSets([self.ids[row] for row in rows.tolist()], self.tokens[rows], mask)

    def unit(self, rows: slice) -> Unit:
        """Some rows, L2-normalised; errors as of `normalised`."""
        tokens, mask = self.rows(rows)
        return normalised(tokens, mask, self.ids[rows])


class Ranked(NamedTuple):
    """The best candidates of each query, best first.

    Attributes:
        indices: (Q, k) int64, rows of the gallery; -1 where a query has fewer than k candidates.
        scores: (Q, k) float32; -inf there.
    """

    indices: Integers
    scores: npt.NDArray[np.float32]


class Shortlist:
    """The best of a first pass for some queries: enough of them to settle the k best exactly, as a rule.

    Attributes:
        k: how many are wanted.
        candidates: N, rows of the gallery.
        values: (Q, keep) float32, first-pass scores, best first; -inf where there is none.
        indices: (Q, keep) int32, their gallery rows.
        bound: (Q,) float32, how far a score may be off.
    """

    def __init__(self, k: int, candidates: int, values: Tensor, indices: Tensor, bound: Tensor) -> None:
        self.k, self.candidates = min(k, candidates), candidates
        self.values, self.indices, self.bound = values, indices, bound

    @classmethod
    def empty(cls, queries: int, candidates: int, k: int) -> "Shortlist":
        keep = cls.width(candidates, k)
        values = torch.full((queries, keep), -torch.inf)
        return cls(k, candidates, values, torch.full(values.shape, -1, dtype=torch.int32), torch.zeros(queries))

    @staticmethod
    def width(candidates: int, k: int) -> int:
        """Beside the k best, those within the bound of the k-th have to be kept; a row that has more is done over."""
        return min(candidates, 2 * k + 64)

    def part(self, rows: slice) -> "Shortlist":
        """The list of some queries; what is added to it is added here."""
        return Shortlist(self.k, self.candidates, self.values[rows], self.indices[rows], self.bound[rows])

    def add(self, start: int, scores: Tensor, bound: Tensor) -> None:
        """Meet (Q, n) scores of gallery rows from `start` on, each off by at most (Q,) `bound`."""
        found = torch.arange(start, start + scores.shape[1], dtype=torch.int32).expand_as(scores)
        values, places = torch.cat([self.values, scores], dim=1).topk(self.values.shape[1], dim=1)
        self.values.copy_(values)
        self.indices.copy_(torch.cat([self.indices, found], dim=1).gather(1, places))
        self.bound.copy_(torch.maximum(self.bound, bound))

    def floor(self, low: Tensor) -> Tensor:
        """(Q,) what the k best exact scores reach at least, -inf while fewer than k are known.

        Args:
            low: (Q, n) lower bounds of the exact scores of rows that are not in the list yet.
        """
        known = torch.cat([self.values[:, : self.k] - self.bound.unsqueeze(1), low], dim=1)
        return known.topk(self.k, dim=1).values[:, -1] if self.k else torch.full((len(known),), -torch.inf)

    def open_rows(self, place: int) -> Integers | None:
        """Gallery rows of one query that may be among its k best; None if they may lie outside the list too."""
        values = self.values[place].numpy()
        # The k best of the list score exactly at least this much, so what stays below cannot be among the k best.
        least = values[self.k - 1] - 2 * self.bound[place].item()
        # What is not in the list scored at most as its last: were that one open, so might be others.
        if len(values) < self.candidates and -np.inf < values[-1] >= least:
            return None
        rows: Integers = self.indices[place].numpy()[(values >= least) & (values > -np.inf)].astype(np.int64)
        return rows


def top_k(
    queries: TokenSets,
    gallery: TokenSets,
    k: int,
    direction: Direction = "reference",
    exclude: Sequence[int] | Integers | None = None,
    dtype: torch.dtype = torch.float32,
) -> Ranked:
    """The k best gallery images of every query, ties by id.

    Args:
        queries: the references; memory grows with their number, so hand over some thousands at most.
        gallery: the candidates, read in strips.
        k: at least 1; the answer is as wide as the smaller of k and the gallery.
        direction: "reference" ranks by s(query, candidate), "candidate" by s(candidate, query).
        exclude: for each query the gallery row that is no candidate (the reference itself), or -1 for none.
        dtype: type of the first pass, float32, bfloat16, or int16 for the native kernel; it decides the speed only.

    Raises:
        ValueError: for k < 1, unequal dimensions, or tokens that `normalised` refuses.
    """
    if k < 1:
        raise ValueError(f"need k of at least 1, got {k}")
    barred = _barred(queries, exclude)
    shortlist = Shortlist.empty(len(queries), len(gallery), k)
    for start, scores, bound in first_pass(queries, gallery, direction, barred, dtype, shortlist):
        shortlist.add(start, scores, bound)
    return settle(shortlist, queries, gallery, direction, barred)


def rank_of_target(
    queries: TokenSets,
    gallery: TokenSets,
    targets: Sequence[int] | Integers,
    direction: Direction = "reference",
    exclude: Sequence[int] | Integers | None = None,
    dtype: torch.dtype = torch.float32,
) -> Integers:
    """Rank of each query's target among the gallery, by counting: 1 + the candidates that score higher.

    Ties do not count against the target. Arguments as of `top_k`; `targets` are gallery rows.

    Returns:
        (Q,) int64, from 1.

    Raises:
        ValueError: if a target is no row of the gallery, or is its query's excluded row; else as `top_k`.
    """
    barred, rows = _barred(queries, exclude), np.asarray(targets, dtype=np.int64)
    if rows.shape != (len(queries),) or ((rows < 0) | (rows >= len(gallery))).any():
        raise ValueError(f"need one gallery row of 0..{len(gallery) - 1} for each of {len(queries)} queries")
    if (rows == barred).any():
        query = queries.ids[int(np.flatnonzero(rows == barred)[0])]
        raise ValueError(f"query {query!r} has its target excluded from the gallery, so the target has no rank")
    _same_dimension(queries, gallery)
    own = [_exact(queries, place, gallery, rows[place : place + 1], direction)[0] for place in range(len(queries))]
    wanted = torch.tensor(np.array(own, dtype=np.float32)).unsqueeze(1)
    ranks = np.ones(len(queries), dtype=np.int64)
    for start, scores, bound in first_pass(queries, gallery, direction, barred, dtype):
        gap = scores - wanted
        ranks += (gap > bound.unsqueeze(1)).sum(dim=1).numpy()
        near = gap.abs() <= bound.unsqueeze(1)
        for place in near.any(dim=1).nonzero()[:, 0].tolist():
            candidates = start + near[place].nonzero()[:, 0].numpy()
            ranks[place] += int((_exact(queries, place, gallery, candidates, direction) > own[place]).sum())
    return ranks


def first_pass(
    queries: TokenSets,
    gallery: TokenSets,
    direction: Direction,
    barred: Integers,
    dtype: torch.dtype,
    shortlist: Shortlist | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Scores of every query with the whole gallery, strip by strip.

    Args:
        queries, gallery, direction, barred, dtype: as of `top_k`.
        shortlist: to which each strip is added before the next is asked for, if only the best are wanted; then the
            native kernel need not score the others.

    Yields:
        The strip's first row; (Q, strip) float32 scores, -inf for the barred row of each query and for what cannot be
        among its best; (Q,) how far they may be off.
    """
    _same_dimension(queries, gallery)
    some, loss = rounded(queries.unit(slice(0, len(queries))), dtype)
    tokens, dim = gallery.tokens.shape[1:]
    strip = max(1, min(STRIP_IMAGES, STRIP_BYTES // (tokens * dim * 4)))
    for start in range(0, len(gallery), strip):
        block, block_loss = rounded(gallery.unit(slice(start, start + strip)), dtype)
        held = np.flatnonzero((barred >= start) & (barred < start + len(block.tokens)))
        cells = (held, barred[held] - start)
        if shortlist is not None and dtype == torch.int16:
            scores = sifted((some, loss), (block, block_loss), direction, shortlist, barred=cells)[0]
        else:
            scores = strip_scores(some, block, direction)
        scores[cells] = -torch.inf
        width = max(tokens, queries.tokens.shape[1])
        yield start, scores, rounding_bound(dtype, dim, width, loss, float(block_loss.max()))


def strip_scores(queries: Unit, block: Unit, direction: Direction) -> Tensor:
    """(Q, strip) float32 scores, from tiles that stay in the processor's cache."""
    if queries.tokens.dtype == torch.int16:
        return native_scores(queries, block)[direction == "candidate"]
    across, down = tile_sizes(queries, block)
    ahead = direction == "reference"
    scores = torch.empty(len(queries.tokens), len(block.tokens))
    for left in range(0, len(queries.tokens), across):
        some = cut(queries, left, across)
        for top in range(0, len(block.tokens), down):
            parts = tile(some, cut(block, top, down), forward=ahead, backward=not ahead)
            part = parts[0] if ahead else parts[1]
            assert part is not None
            scores[left : left + across, top : top + down] = part
    return scores


def native_scores(queries: Unit, block: Unit) -> tuple[Tensor, Tensor]:
    """(Q, strip) s(query, image) and (Q, strip) s(image, query) of all pairs, by the native kernel.

    Raises:
        RuntimeError: where there is none.
    """
    native = kernel()
    if native is None:
        raise RuntimeError("int16 needs the native kernel, and there is none here; rank in float32")
    return native.fine(queries, block)


def tile_sizes(queries: Unit, block: Unit) -> tuple[int, int]:
    """Queries and gallery images of one matrix product."""
    return max(1, TILE_COLUMNS // queries.tokens.shape[1]), max(1, TILE_ROWS // block.tokens.shape[1])


def settle(
    shortlist: Shortlist,
    queries: TokenSets,
    gallery: TokenSets,
    direction: Direction,
    barred: Integers,
    rows_of: Integers | None = None,
) -> Ranked:
    """Turn the first pass's best into the exact ranking.

    Args:
        shortlist, queries, gallery, direction: as they were in the first pass.
        barred: (Q,) gallery rows that are no candidates, or -1.
        rows_of: gallery rows that the shortlist's numbers stand for, where it met only some; None if they are rows.
    """
    count, k = len(queries), shortlist.k
    ranked = Ranked(np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf, dtype=np.float32))
    for place in range(count if k else 0):
        rows = shortlist.open_rows(place)
        if rows is None:
            rows, scores = _whole_row(queries, place, gallery, k, direction, int(barred[place]))
        else:
            rows = rows if rows_of is None else rows_of[rows]
            scores = _exact(queries, place, gallery, rows, direction)
        best = np.lexsort((gallery.order[rows], -scores))[:k]
        ranked.indices[place, : len(best)] = rows[best]
        ranked.scores[place, : len(best)] = scores[best]
    return ranked


def _whole_row(
    queries: TokenSets, place: int, gallery: TokenSets, k: int, direction: Direction, barred: int
) -> tuple[Integers, npt.NDArray[np.float32]]:
    """The k best of one query from the exact scores of the whole gallery: for rows full of near ties."""
    rows, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    step = max(1, STRIP_BYTES // (8 * gallery.tokens.shape[1] * gallery.tokens.shape[2]))
    for start in range(0, len(gallery), step):
        more = np.arange(start, min(start + step, len(gallery)))
        more = more[more != barred]
        rows = np.concatenate([rows, more])
        scores = np.concatenate([scores, _exact(queries, place, gallery, more, direction)])
        best = np.lexsort((gallery.order[rows], -scores))[:k]
        rows, scores = rows[best], scores[best]
    return rows, scores


def _exact(
    queries: TokenSets, place: int, gallery: TokenSets, rows: Integers, direction: Direction
) -> npt.NDArray[np.float32]:
    query, query_mask = queries.rows(slice(place, place + 1))
    tokens, mask = gallery.rows(rows)
    scores = exact_scores(query[0], tokens, direction, None if query_mask is None else query_mask[0], mask)
    return scores.numpy()


def _same_dimension(queries: TokenSets, gallery: TokenSets) -> None:
    (_, _, d), (_, _, other) = queries.tokens.shape, gallery.tokens.shape
    if d != other:
        raise ValueError(f"queries have {d} dimensions and the gallery {other}; were they encoded by one checkpoint?")


def _barred(queries: TokenSets, exclude: Sequence[int] | Integers | None) -> Integers:
    barred = np.full(len(queries), -1) if exclude is None else np.asarray(exclude, dtype=np.int64)
    if barred.shape != (len(queries),):
        raise ValueError(f"need one row to exclude, or -1, for each of {len(queries)} queries; got {barred.shape}")
    return barred


def cut(unit: Unit, start: int, size: int) -> Unit:
    """`size` sets from `start` on."""
    return Unit(unit.tokens[start : start + size], None if unit.mask is None else unit.mask[start : start + size])
