"""What rankings are worth under a benchmark's protocol: per query, as means with intervals, and against each other.

A ranking is either a score for every candidate or a list of ids, best first. All metrics follow from the ranks of the
targets, so nothing is sorted; equal scores are resolved by the protocol's rule, and a query whose worth depends on
that rule is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data.annotations import Annotations, Rule
from data.benchmarks import METRIC, Query
from data.metrics import paired_test

Values = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]


class Ranking(Protocol):
    """An answer to one query."""

    def ranks(
        self, items: Sequence[str], gains: Sequence[float], rule: Rule, within: Sequence[str] = ()
    ) -> list[float]:
        """Rank of each item from 1, among all candidates or those of `within`; infinite for one that was not found.

        Args:
            items: distinct image ids.
            gains: what each is worth; other images are worth 0.
            rule: the order of equal scores.
            within: the only images that count; all without it.
        """


class ScoredRanking:
    """One score per candidate.

    Args:
        query: for messages, and for its reference.
        scores: (N,), higher is closer.
        places: first place of each candidate id.
        hidden: places that the protocol takes out.

    Raises:
        ValueError: if a score is NaN or infinite, or all are equal: such a method ranks nothing, and the benchmark's
            own rule for ties can make that look perfect.
    """

    def __init__(self, query: Query, scores: Scores, places: Mapping[str, int], hidden: Sequence[int] = ()) -> None:
        broken = int((~np.isfinite(scores)).sum())
        if broken:
            raise ValueError(
                f"query {query.query_id}: {broken} of {len(scores)} scores are not finite; look for NaN in the features"
            )
        if hidden:
            scores = scores.copy()
            scores[list(hidden)] = -np.inf
        competing = scores[scores > -np.inf]
        if len(competing) > 1 and competing.min() == competing.max():
            raise ValueError(
                f"query {query.query_id}: all {len(competing)} scores are {competing[0]:g}; a constant ranks nothing,"
                " the encoder has collapsed to one point"
            )
        self._scores = scores
        self._places = places

    def ranks(
        self, items: Sequence[str], gains: Sequence[float], rule: Rule, within: Sequence[str] = ()
    ) -> list[float]:
        """See `Ranking`; an item that is no candidate, or is hidden, has an infinite rank."""
        worth = {self._places[item]: gain for item, gain in zip(items, gains, strict=True) if item in self._places}
        pool = np.array(sorted(self._places[one] for one in within if one in self._places), dtype=np.intp)
        scores = self._scores[pool] if within else self._scores
        found: list[float] = []
        for item in items:
            place = self._places.get(item)
            if place is None or (within and item not in within) or self._scores[place] == -np.inf:
                found.append(np.inf)
                continue
            own = self._scores[place]
            equal = np.flatnonzero(scores == own)
            if within:
                equal = pool[equal]
            ahead = int((scores > own).sum())
            found.append(float(ahead + 1 + (0 if len(equal) == 1 else _before(place, equal.tolist(), worth, rule))))
        return found


def _before(place: int, equal: list[int], worth: Mapping[int, float], rule: Rule) -> int:
    """How many of the equal places a rule puts in front of one of them."""
    if rule == "gallery_order":
        return sum(other < place for other in equal)
    sign = 1 if rule == "target_last" else -1
    own = (sign * worth.get(place, 0.0), place)
    return sum((sign * worth.get(other, 0.0), other) < own for other in equal)


class ListedRanking:
    """Ids, best first, without scores: no ties are left to decide.

    Args:
        ranked: distinct ids; what the protocol takes out is already gone.
    """

    def __init__(self, ranked: Sequence[str]) -> None:
        self._ranks = {image: rank for rank, image in enumerate(ranked, start=1)}

    def __len__(self) -> int:
        return len(self._ranks)

    def ranks(
        self, items: Sequence[str], gains: Sequence[float], rule: Rule, within: Sequence[str] = ()
    ) -> list[float]:
        """See `Ranking`."""
        ranks: Mapping[str, int] = self._ranks
        if within:
            order = sorted((one for one in within if one in ranks), key=ranks.__getitem__)
            ranks = {one: rank for rank, one in enumerate(order, start=1)}
        return [float(ranks.get(item, np.inf)) for item in items]


def worth(metrics: Sequence[str], query: Query, ranking: Ranking, rule: Rule, members: Sequence[str]) -> list[float]:
    """Worth of one answer by each metric, in [0, 1].

    recall@k and subset_recall@k are the greatest gain among the targets found by rank k: 1 or 0 where only the main
    target counts. map@k is the average precision over all targets, with denominator min(k, targets).

    Args:
        metrics: without tags.
        members: the images among which subset_recall ranks.
    """
    # Without gains the main target alone counts: CIRCO's recall looks at the image the text was written for.
    targets, gains = (query.targets, query.gains) if query.gains else (query.targets[:1], (1.0,))
    ranks: dict[str, list[float]] = {}
    found: list[float] = []
    for metric in metrics:
        kind, cut = metric.split("@")
        if kind not in ranks:
            if kind == "map":
                ranks[kind] = sorted(ranking.ranks(query.targets, [1.0] * len(query.targets), rule))
            else:
                ranks[kind] = ranking.ranks(targets, gains, rule, members if kind == "subset_recall" else ())
        if kind == "map":
            hits = [rank for rank in ranks[kind] if rank <= int(cut)]
            precisions = (hit / rank for hit, rank in enumerate(hits, start=1))
            found.append(sum(precisions) / min(int(cut), len(query.targets)))
        else:
            reached = (gain for gain, rank in zip(gains, ranks[kind], strict=True) if rank <= int(cut))
            found.append(max(reached, default=0.0))
    return found


@dataclass(frozen=True)
class Outcome:
    """What a method's answers are worth, query by query.

    Attributes:
        annotations: the queries and the protocol.
        values: in [0, 1], in the order of the queries, by metric without tag.
        ties: queries of which some value depends on the order of equal scores.
    """

    annotations: Annotations
    values: Mapping[str, Values]
    ties: int

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics and then of the averages."""
        return (*self.annotations.metrics, *self.annotations.averages)

    def terms(self, metric: str) -> dict[str, float]:
        """A metric as a weighted sum of metrics that are means over queries."""
        parts = self.annotations.averages.get(metric)
        if parts is None:
            return {metric: 1.0}
        total: dict[str, float] = {}
        for part in parts:
            for name, weight in self.terms(part).items():
                total[name] = total.get(name, 0.0) + weight / len(parts)
        return total

    def carriers(self, metric: str) -> npt.NDArray[np.intp]:
        """Indices of the queries over which a metric is the mean."""
        tag, _, _ = metric.rpartition("/")
        queries = self.annotations.queries
        return np.array([i for i, one in enumerate(queries) if not tag or tag in one.tags], dtype=np.intp)

    def strata(self, metric: str) -> list[tuple[npt.NDArray[np.intp], Values]]:
        """Groups of queries and their contributions in percent: the metric is the sum of the groups' means."""
        found: list[tuple[npt.NDArray[np.intp], Values]] = []
        for _, names in groupby(sorted(self.terms(metric).items()), key=lambda term: term[0].rpartition("/")[0]):
            group = list(names)
            rows = self.carriers(group[0][0])
            found.append(
                (
                    rows,
                    sum((100 * w * self.values[name.split("/")[-1]][rows] for name, w in group), np.zeros(len(rows))),
                )
            )
        return found

    def percent(self, metric: str) -> float | None:
        """The metric in percent; None where no query carries its tag."""
        groups = self.strata(metric)
        if any(len(rows) == 0 for rows, _ in groups):
            return None
        return float(sum(contributions.mean() for _, contributions in groups))

    def interval(self, metric: str, seed: int = 0, rounds: int = 1000) -> tuple[float, float] | None:
        """95 % bootstrap interval in percent: queries are drawn anew within each category or task."""
        groups = self.strata(metric)
        if any(len(rows) == 0 for rows, _ in groups):
            return None
        generator = np.random.default_rng(seed)
        means = np.zeros(rounds)
        for rows, contributions in groups:
            for round_ in range(rounds):
                means[round_] += contributions[generator.integers(len(rows), size=len(rows))].mean()
        low, high = np.percentile(means, [2.5, 97.5])
        return float(low), float(high)


def evaluate(annotations: Annotations, rankings: Mapping[str, Ranking]) -> Outcome:
    """Score every query.

    Args:
        annotations: of a split with targets.
        rankings: by query id, of all queries.

    Raises:
        ValueError: if the split has no targets or a query has no ranking.
    """
    if not annotations.metrics:
        raise ValueError(f"{annotations.name} {annotations.split} has no public targets; only its server can score it")
    missing = [query.query_id for query in annotations.queries if query.query_id not in rankings]
    if missing:
        raise ValueError(
            f"{annotations.name}: {len(missing)} of {len(annotations.queries)} queries have no ranking,"
            f" first {missing[0]!r}"
        )
    plain = list(dict.fromkeys(metric.split("/")[-1] for metric in annotations.metrics))
    unknown = [metric for metric in plain if METRIC.fullmatch(metric) is None]
    if unknown:
        raise ValueError(f"{annotations.name}: unknown metric {unknown[0]!r}")
    rule: Rule = "target_last" if annotations.protocol.ties == "pessimistic" else annotations.official
    values = np.zeros((len(plain), len(annotations.queries)))
    ties = 0
    for column, query in enumerate(annotations.queries):
        ranking = rankings[query.query_id]
        members = subset_members(annotations, query)
        values[:, column] = worth(plain, query, ranking, rule, members)
        if not isinstance(ranking, ListedRanking):
            best = worth(plain, query, ranking, "target_first", members)
            ties += best != worth(plain, query, ranking, "target_last", members)
    return Outcome(annotations, dict(zip(plain, values, strict=True)), ties)


def subset_members(annotations: Annotations, query: Query) -> tuple[str, ...]:
    """The images among which subset_recall ranks: the reference competes there too where the protocol keeps it."""
    if query.subset and annotations.protocol.reference == "keep":
        return (*query.subset, query.reference_id)
    return query.subset


def compare(first: Outcome, second: Outcome, seed: int = 0) -> dict[str, float | None]:
    """Two-sided p-value, by metric, of "both methods are equally good", paired by query.

    Raises:
        ValueError: if the two were not scored on the same queries under the same protocol.
    """
    one, other = first.annotations, second.annotations
    if (one.name, one.split, one.queries, one.protocol) != (other.name, other.split, other.queries, other.protocol):
        raise ValueError(
            f"a paired test needs the same queries and protocol, got {one.name} {one.split} {one.protocol!r}"
            f" and {other.name} {other.split} {other.protocol!r}"
        )
    found: dict[str, float | None] = {}
    for metric in first.metrics:
        pairs = list(zip(first.strata(metric), second.strata(metric), strict=True))
        if any(len(rows) == 0 for (rows, _), _ in pairs):
            found[metric] = None
            continue
        # Divided by the size of its group, a contribution is what the query adds to the metric.
        a, b = (np.concatenate([pair[side][1] / len(pair[side][0]) for pair in pairs]) for side in (0, 1))
        found[metric] = paired_test(a, b, seed=seed)
    return found
