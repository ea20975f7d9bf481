"""Ranking by candidates: some thousand images that may be near, found by FAISS, then scored exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.codebook import Codes, interaction
from models.index import Floats, neighbours
from models.ranking import STRIP_BYTES, Integers, Ranked, Shortlist, TokenSets, settle, strip_scores
from models.similarity import Direction, Unit, rounded, rounding_bound, tile

SHARED = 7
"""An image that one in so many references of a batch wants is scored with all of them at once: one pair alone costs
as much as so many in a block (docs/ranking.md)."""
GATHERED = 256
"""Candidates in one product with a lone reference."""


class Prepared(NamedTuple):
    """All images' tokens as the first pass reads them, so that gathering some is a plain copy.

    Attributes:
        tokens: (N, T, D) of 16 bits, L2-normalised, memory-mapped.
        loss: (N,) float32, the largest norm of rounded minus unrounded token.
        mask: (N, T) bool, or None where all count.
        dtype: in which they are multiplied.
    """

    tokens: Tensor
    loss: Tensor
    mask: Tensor | None
    dtype: torch.dtype

    def unit(self, rows: Integers) -> Unit:
        places = torch.from_numpy(rows)
        return Unit(self.tokens[places].to(self.dtype), None if self.mask is None else self.mask[places])


class Finder(NamedTuple):
    """Where candidates come from; either source may be missing.

    Attributes:
        vectors: (N, P) of `models.index.pooled`.
        nearest: a FAISS index of them, or None.
        centroids: (K, D) of `models.codebook`, or None.
        codes: (N, T) likewise.
    """

    vectors: Floats
    nearest: Any | None
    centroids: Tensor | None
    codes: Codes | None


def stored_type(dtype: torch.dtype) -> torch.dtype:
    """The 16-bit type that tokens are kept in for a first pass in `dtype`: float16 loses less where it is as fast."""
    return torch.float16 if dtype == torch.float32 else dtype


def prepare(sets: TokenSets, kind: torch.dtype, path: Path, advance: Callable[[int], None]) -> Tensor:
    """Write the normalised tokens in `kind` to `path`, a .npy file of 16-bit integers; returns (N,) losses."""
    shape = sets.tokens.shape
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.int16, shape=shape)  # type: ignore[no-untyped-call]
    tokens = torch.from_numpy(stored).view(kind)
    loss = torch.empty(len(sets))
    step = max(1, STRIP_BYTES // (4 * sets.tokens.shape[1] * sets.tokens.shape[2]))
    for start in range(0, len(sets), step):
        rows = slice(start, start + step)
        unit, loss[rows] = rounded(sets.unit(rows), kind)
        tokens[rows] = unit.tokens
        advance(len(unit.tokens))
    return loss


def candidates(finder: Finder, sets: TokenSets, rows: Integers, count: int, direction: Direction) -> list[Integers]:
    """For each of some images the rows, ascending, that may be among its nearest: up to `count` from each source.

    A larger count only adds candidates: each source gives the first of a list that does not depend on the count.
    """
    lists: list[list[Integers]] = [[] for _ in rows]
    if finder.nearest is not None:
        # One more, because the image itself is among them.
        for found, near in zip(lists, neighbours(finder.nearest, finder.vectors[rows], count + 1), strict=True):
            found.append(near)
    if finder.centroids is not None and finder.codes is not None:
        unit = sets.subset(rows).unit(slice(0, len(rows)))
        for place, found in enumerate(lists):
            mask = None if unit.mask is None else unit.mask[place]
            scores = interaction(unit.tokens[place], mask, finder.centroids, finder.codes, direction)
            found.append(scores.topk(min(count + 1, len(scores))).indices.numpy())
    return [_without(np.unique(np.concatenate(found)), row) for found, row in zip(lists, rows.tolist(), strict=True)]


def rerank(
    prepared: Prepared, sets: TokenSets, rows: Integers, lists: list[Integers], k: int, direction: Direction
) -> Ranked:
    """The k best of each image's candidates, scored exactly; ties by id.

    Images that many of the batch want are scored with the whole batch, which may add candidates but loses none.

    Args:
        prepared, sets: the same N images.
        rows: (B,) distinct rows.
        lists: B lists of rows, ascending, without the image itself; together not empty.
        k: how many to keep.
        direction: as of `models.ranking.top_k`.
    """
    wanted, askers = np.unique(np.concatenate(lists), return_counts=True)
    shared = askers * SHARED >= len(rows) if len(rows) > 1 else np.zeros(len(wanted), dtype=bool)
    queries = prepared.unit(rows)
    scores = torch.full((len(rows), len(wanted)), -torch.inf)
    _score_shared(prepared, queries, wanted, np.flatnonzero(shared), scores, direction)
    for place, own in enumerate(lists):
        columns = np.searchsorted(wanted, own)
        _score_alone(prepared, queries, place, wanted, columns[~shared[columns]], scores, direction)
    for place, column in enumerate(np.searchsorted(wanted, rows)):  # a neighbour's list may name the image itself
        if column < len(wanted) and wanted[column] == rows[place]:
            scores[place, column] = -torch.inf
    tokens, dim = sets.tokens.shape[1:]
    gallery_loss = float(prepared.loss[torch.from_numpy(wanted)].max())
    bound = rounding_bound(prepared.dtype, dim, tokens, prepared.loss[torch.from_numpy(rows)], gallery_loss)
    shortlist = Shortlist.empty(len(rows), len(wanted), k)
    shortlist.add(0, scores, bound)
    return settle(shortlist, sets.subset(rows), sets, direction, rows, wanted)


def alike(vectors: Floats) -> Integers:
    """An order of some images in which neighbours share candidates: by cluster of their vectors."""
    clusters = len(vectors) // 40  # FAISS wants 39 vectors for each
    if clusters < 2:
        return np.arange(len(vectors), dtype=np.int64)
    means = faiss.Kmeans(vectors.shape[1], clusters, niter=5, seed=0)
    means.train(np.ascontiguousarray(vectors))
    nearest = means.index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]
    order: Integers = np.argsort(nearest, kind="stable").astype(np.int64)
    return order


def _without(rows: npt.NDArray[Any], row: int) -> Integers:
    kept: Integers = rows[(rows != row) & (rows >= 0)].astype(np.int64)
    return kept


def _score_shared(
    prepared: Prepared, queries: Unit, wanted: Integers, columns: Integers, scores: Tensor, direction: Direction
) -> None:
    """Fill some columns of the (B, U) scores for the whole batch."""
    step = 1024
    for start in range(0, len(columns), step):
        some = columns[start : start + step]
        scores[:, torch.from_numpy(some)] = strip_scores(queries, prepared.unit(wanted[some]), direction)


def _score_alone(
    prepared: Prepared,
    queries: Unit,
    place: int,
    wanted: Integers,
    columns: Integers,
    scores: Tensor,
    direction: Direction,
) -> None:
    """Fill some columns of one row of the scores."""
    query = Unit(queries.tokens[place : place + 1], None if queries.mask is None else queries.mask[place : place + 1])
    ahead = direction == "reference"
    for start in range(0, len(columns), GATHERED):
        some = columns[start : start + GATHERED]
        if prepared.dtype == torch.int16:
            scores[place, torch.from_numpy(some)] = strip_scores(query, prepared.unit(wanted[some]), direction)[0]
            continue
        parts = tile(query, prepared.unit(wanted[some]), forward=ahead, backward=not ahead)
        part = parts[0] if ahead else parts[1]
        assert part is not None
        scores[place, torch.from_numpy(some)] = part[0]
