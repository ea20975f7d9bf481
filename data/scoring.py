"""What rankings are worth under a benchmark's protocol: per query, as means with intervals, and against each other.

A ranking is either a score for every candidate or a list of ids, best first. Equal scores are ordered by the
protocol's rule, and a query whose worth depends on that rule is counted. What a model answers and what users hand over
as files is scored by the same functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from data.annotations import Annotations
from data.benchmarks import METRIC, Query, Rule
from data.metrics import average_precision_at, paired_test, recall_at
from data.orders import ListedRanking, Ranking, subset_members

Values = npt.NDArray[np.float64]

# Where these two give the same values, no tie decides.
EXTREMES: tuple[Rule, Rule] = ("target_first", "target_last")


def worth(metrics: Sequence[str], query: Query, ranking: Ranking, rule: Rule, members: Sequence[str]) -> list[float]:
    """Worth of one answer by each metric, in [0, 1].

    recall@k and subset_recall@k are the greatest gain among the targets found by rank k: 1 or 0 where only the main
    target counts. map@k is the average precision over all targets, with denominator min(k, targets).

    Args:
        metrics: without tags.
        members: the images among which subset_recall ranks.
    """
    # Without gains the main target alone counts: CIRCO's recall looks at the image the text was written for.
    gains = dict(zip(query.targets, query.gains, strict=True)) if query.gains else {query.targets[0]: 1.0}
    asked = [(metric.split("@")[0], int(metric.split("@")[1])) for metric in metrics]
    ranked: dict[str, Sequence[str]] = {}
    for kind, deepest in {kind: max(k for other, k in asked if other == kind) for kind, _ in asked}.items():
        wanted = dict.fromkeys(query.targets, 1.0) if kind == "map" else gains
        ranked[kind] = ranking.first(deepest, rule, wanted, members if kind == "subset_recall" else ())
    return [
        average_precision_at(k, ranked[kind], query.targets)
        if kind == "map"
        # CIRR's authors (CIRPLANT): the best of what was found counts.
        else max(gain * recall_at(k, ranked[kind], target) for target, gain in gains.items())
        for kind, k in asked
    ]


def judged(
    metrics: Sequence[str], query: Query, ranking: Ranking, rule: Rule, members: Sequence[str]
) -> tuple[list[float], bool]:
    """`worth`, and whether some value depends on the order of equal scores."""
    values = worth(metrics, query, ranking, rule, members)
    if isinstance(ranking, ListedRanking):
        return values, False
    best, worst = (worth(metrics, query, ranking, other, members) for other in EXTREMES)
    return values, best != worst


def rule_of(protocol: Mapping[str, object], official: Rule) -> Rule:
    """The order of equal scores under a protocol's `ties`."""
    return "target_last" if protocol.get("ties") == "pessimistic" else official


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
    plain = annotations.plain
    unknown = [metric for metric in plain if METRIC.fullmatch(metric) is None]
    if unknown:
        raise ValueError(f"{annotations.name}: unknown metric {unknown[0]!r}")
    protocol = annotations.protocol
    rule = rule_of(protocol.model_dump(), annotations.official)
    values = np.zeros((len(plain), len(annotations.queries)))
    ties = 0
    for column, query in enumerate(annotations.queries):
        members = subset_members(protocol.reference, query)
        values[:, column], tied = judged(plain, query, rankings[query.query_id], rule, members)
        ties += tied
    return Outcome(annotations, dict(zip(plain, values, strict=True)), ties)


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
