"""Answers to a query as orders of its candidates: from a score for each, or as a list of ids, best first."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data.benchmarks import Query, Rule

Scores = npt.NDArray[np.floating]
Places = npt.NDArray[np.intp]


class Ranking(Protocol):
    """An answer to one query."""

    def first(self, count: int, rule: Rule, gains: Mapping[str, float], within: Sequence[str] = ()) -> Sequence[str]:
        """The first `count` ids, best first.

        Args:
            count: >= 1; fewer where there are not so many.
            rule: the order of equal scores.
            gains: what each target is worth; other images are worth 0.
            within: the only images that count; all without it.
        """


class ScoredRanking:
    """One score per candidate.

    Args:
        query: for messages.
        scores: (N,), higher is closer.
        candidates: N image ids; copies of an image may repeat its id.
        places: first place of each candidate id.
        hidden: places that the protocol takes out.

    Raises:
        ValueError: if a score is NaN or infinite, or all are equal: such a method ranks nothing, and the benchmark's
            own rule for ties can make that look perfect.
    """

    def __init__(
        self,
        query: Query,
        scores: Scores,
        candidates: Sequence[str],
        places: Mapping[str, int],
        hidden: Sequence[int] = (),
    ) -> None:
        broken = int((~np.isfinite(scores)).sum())
        if broken:
            raise ValueError(
                f"query {query.query_id}: {broken} of {len(scores)} scores are not finite; look for NaN in the features"
            )
        competing = scores
        if hidden:
            competing = np.delete(scores, hidden)
            scores = scores.copy()
            scores[list(hidden)] = -np.inf
        if len(competing) > 1 and competing.min() == competing.max():
            raise ValueError(
                f"query {query.query_id}: all {len(competing)} scores are {competing[0]:g}; a constant ranks nothing,"
                " the encoder has collapsed to one point"
            )
        self._scores = scores
        self._candidates = candidates
        self._places = places

    def order(self, count: int, rule: Rule, gains: Mapping[str, float], within: Sequence[str] = ()) -> Places:
        """Places of the first `count` candidates; arguments as of `Ranking.first`."""
        if within:
            pool = np.array(sorted({self._places[one] for one in within if one in self._places}), dtype=np.intp)
            pool = pool[self._scores[pool] > -np.inf]
        else:
            pool = self._contenders(count)
        worth = np.zeros(len(pool))
        sign = {"gallery_order": 0, "target_first": -1, "target_last": 1}[rule]
        for image, gain in gains.items():
            worth[pool == self._places.get(image, -1)] = sign * gain
        # Stable: what is equal in both stays in gallery order.
        found: Places = pool[np.lexsort((worth, -self._scores[pool]))][:count]
        return found

    def first(self, count: int, rule: Rule, gains: Mapping[str, float], within: Sequence[str] = ()) -> list[str]:
        """See `Ranking`; a copy of an image is told from it by its place."""
        found = ((place, self._candidates[place]) for place in self.order(count, rule, gains, within).tolist())
        return [image if self._places[image] == place else f"{image}#{place}" for place, image in found]

    def _contenders(self, count: int) -> Places:
        """Places, in gallery order, of all that score at least as much as the last of the first `count`."""
        if count < len(self._scores):
            last = np.partition(self._scores, len(self._scores) - count)[len(self._scores) - count]
            if last > -np.inf:
                return np.flatnonzero(self._scores >= last)
        return np.flatnonzero(self._scores > -np.inf)


class ListedRanking:
    """Ids, best first, without scores: no ties are left to decide.

    Args:
        ranked: distinct ids; what the protocol takes out is already gone.
    """

    def __init__(self, ranked: Sequence[str]) -> None:
        self._ranked = ranked

    def __len__(self) -> int:
        return len(self._ranked)

    def first(self, count: int, rule: Rule, gains: Mapping[str, float], within: Sequence[str] = ()) -> Sequence[str]:
        """See `Ranking`."""
        ranked = [one for one in self._ranked if one in within] if within else self._ranked
        return ranked[:count]


def first_places(ids: Sequence[str]) -> dict[str, int]:
    """First place of each id: a target that is repeated among its rivals stands where it comes first."""
    places: dict[str, int] = {}
    for place, one in enumerate(ids):
        places.setdefault(one, place)
    return places


def hidden_places(reference: str, query: Query, candidates: Sequence[str], places: Mapping[str, int]) -> list[int]:
    """Places that the protocol takes out: of the reference, and of its copies among GeneCIS' rivals.

    Args:
        reference: the protocol's "mask" or "keep".
        query: whose reference it is; one that is a target as well is not taken out.
        candidates: image ids.
        places: first place of each candidate.
    """
    if reference == "keep" or query.reference_id not in places or query.reference_id in query.targets:
        return []
    if len(places) == len(candidates):
        return [places[query.reference_id]]
    return [place for place, one in enumerate(candidates) if one == query.reference_id]


def subset_members(reference: str, query: Query) -> tuple[str, ...]:
    """The images among which subset_recall ranks: the reference competes there too where the protocol keeps it."""
    return (*query.subset, query.reference_id) if query.subset and reference == "keep" else query.subset
