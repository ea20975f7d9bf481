"""One query at a time against the same gallery: what does not depend on the query is worked out once."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from models.ranking import Ranked, Shortlist, TokenSets, settle
from models.similarity import Unit, normalised, rounding_bound, token_norms

BLOCK_TOKENS = 512
"""Gallery tokens in one matrix product: as float32 they stay in the processor's cache."""
SHARE = 4096
"""Images that a thread takes at a time."""


class LoneRanker:
    """Ranks a gallery for single queries exactly as `models.ranking.top_k` does, several times as fast.

    The gallery is read as it is stored and never copied; only the (N, T) inverse norms are held.
    """

    def __init__(self, gallery: TokenSets) -> None:
        """Read the gallery once; a ValueError names the first token set that has no direction."""
        self.gallery = gallery
        self._threads = min(8, os.cpu_count() or 1)
        self._inverse = torch.empty(gallery.tokens.shape[:2])
        for start in range(0, len(gallery), 1024):
            rows = slice(start, start + 1024)
            tokens, mask = gallery.rows(rows)
            self._inverse[rows] = token_norms(tokens, mask, gallery.ids[rows]).reciprocal().float()
        # Sorting the ids takes a second for 100,000 of them: not within the first query.
        assert len(gallery.order) == len(gallery)

    def top_k(self, query: TokenSets, k: int, exclude: int = -1) -> Ranked:
        """The k best images by s(query, image), ties by id; arguments and errors as of `models.ranking.top_k`.

        Args:
            query: one token set.
            k: at least 1.
            exclude: a row of the gallery that is no candidate, or -1.
        """
        (count, tokens, dim), (_, _, wide) = query.tokens.shape, self.gallery.tokens.shape
        if count != 1 or k < 1 or dim != wide:
            raise ValueError(
                f"need one query, k of at least 1 and equal dimensions; got {count}, {k}, {dim} and {wide}"
            )
        scores = self._scores(query.unit(slice(0, 1)))
        if exclude >= 0:
            scores[0, exclude] = -torch.inf
        # As in the first pass of `top_k` in float32; scaling by the inverse norm adds less than the bound's margin.
        bound = rounding_bound(torch.float32, dim, max(tokens, self._inverse.shape[1]), torch.zeros(1), 0.0)
        shortlist = Shortlist.empty(1, len(self.gallery), k)
        shortlist.add(0, scores, bound)
        return settle(shortlist, query, self.gallery, "reference", np.array([exclude], dtype=np.int64))

    def _scores(self, query: Unit) -> Tensor:
        """(1, N) float32."""
        scores = torch.empty(1, len(self.gallery))
        columns = query.tokens[0].T.contiguous()
        kept = None if query.mask is None else query.mask[0]

        def share(start: int) -> None:
            with torch.inference_mode():
                for at in range(start, min(start + SHARE, len(self.gallery)), step):
                    rows = slice(at, min(at + step, start + SHARE, len(self.gallery)))
                    scores[0, rows] = self._block(columns, kept, rows)

        step = max(1, BLOCK_TOKENS // self._inverse.shape[1])
        threads = torch.get_num_threads()
        try:
            # One for each of the pool's threads: the products are small.
            with ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(share, range(0, len(self.gallery), SHARE)))
        finally:
            torch.set_num_threads(threads)  # MKL's number is not the thread's but the process's
        return scores

    def _block(self, columns: Tensor, kept: Tensor | None, rows: slice) -> Tensor:
        inverse = self._inverse[rows]
        tokens, mask = self.gallery.rows(rows)
        if mask is not None:
            tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        grid = tokens.float().flatten(0, 1) @ columns
        cosines = grid.mul_(inverse.reshape(-1, 1)).view(*inverse.shape, -1)
        if mask is not None:
            cosines = cosines.masked_fill(~mask.unsqueeze(-1), -torch.inf)
        best = cosines.amax(dim=1)
        return (best if kept is None else best[:, kept]).mean(dim=1)


def best_matches(query: TokenSets, image: TokenSets) -> tuple[list[int], list[float]]:
    """Of each token of a query, its nearest token of an image and their cosine; their mean is the score.

    Args:
        query: one token set of T tokens, all of which count.
        image: one token set.
    """
    first, second = (normalised(*one.rows(slice(0, 1))) for one in (query, image))
    cosines = first.tokens[0] @ second.tokens[0].T
    if second.mask is not None:
        cosines = cosines.masked_fill(~second.mask[0], -torch.inf)
    values, places = cosines.max(dim=1)
    return places.tolist(), values.tolist()
