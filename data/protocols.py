"""How a benchmark turns the scores of a method into ranked answers and metrics, and these into tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.annotations import Annotations
from data.benchmarks import Benchmark, Query
from data.keys import canonical
from data.metrics import bootstrap_interval
from data.orders import Places, ScoredRanking, first_places, hidden_places, subset_members
from data.schemas import PREDICTIONS, SCORES
from data.scoring import Outcome, judged, rule_of

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What a method answered to one query, and what that is worth."""

    query: Query
    ranked: tuple[str, ...]
    """Image ids, best first; the masked reference is not among them."""
    scores: tuple[float, ...]
    """Score of each ranked image, not ascending."""
    values: dict[str, float]
    """In [0, 1], by metric of the benchmark; empty where the targets are hidden."""
    tied: bool
    """Whether the order of equal scores could change a value."""


class Judge:
    """Scores queries of one benchmark by its protocol: metrics, masked reference, order of equal scores."""

    def __init__(self, benchmark: Benchmark, depth: int = 50) -> None:
        """Keep the first `depth` images of each answer; metrics look as deep as they must."""
        self.benchmark = benchmark
        self.depth = depth
        self._metrics = list(dict.fromkeys([*benchmark.metrics, *([benchmark.per_tag] if benchmark.per_tag else [])]))
        self._rule = rule_of(benchmark.protocol, benchmark.official)
        self._row = {image: row for row, image in enumerate(benchmark.gallery)}
        self._held: tuple[tuple[str, ...], Places | slice, dict[str, int]] = (
            benchmark.gallery,
            slice(None),
            self._row,
        )

    def answer(self, query: Query, scores: Scores) -> Answer:
        """Rank the gallery, or the query's own candidates, for one query.

        Args:
            query: of this judge's benchmark.
            scores: (N,), one per gallery image in gallery order, higher is closer. Those of images that the query
                does not rank are not looked at.

        Raises:
            ValueError: if a score is not finite, or all are equal: such a method ranks nothing, and a rule for ties
                would reward whatever happens to come first.
        """
        mode = self.benchmark.protocol["reference"]
        if scores.shape != (len(self.benchmark.gallery),):
            raise ValueError(
                f"benchmark {self.benchmark.name!r}, query {query.query_id}: scores of shape {scores.shape}, want"
                f" ({len(self.benchmark.gallery)},)"
            )
        candidates = query.candidates or self.benchmark.gallery
        rows, places = self._places_of(candidates)
        own = scores[rows]
        ranking = ScoredRanking(query, own, candidates, places, hidden_places(mode, query, candidates, places))
        gains = dict(zip(query.targets, query.gains or [1.0] * len(query.targets), strict=True))
        order = ranking.order(self.depth, self._rule, gains)
        values, tied = (
            judged(self._metrics, query, ranking, self._rule, subset_members(mode, query))
            if query.targets
            else ([], False)
        )
        return Answer(
            query=query,
            ranked=tuple(candidates[place] for place in order),
            scores=tuple(map(float, own[order])),
            values=dict(zip(self._metrics, values, strict=True)) if query.targets else {},
            tied=tied,
        )

    def _places_of(self, candidates: tuple[str, ...]) -> tuple[Places | slice, dict[str, int]]:
        """Rows of the candidates among the gallery, and their places among themselves; queries in a row share them."""
        if self._held[0] is not candidates:
            rows = np.array([self._row[image] for image in candidates], dtype=np.intp)
            self._held = (candidates, rows, first_places(candidates))
        return self._held[1], self._held[2]


def outcome(annotations: Annotations, answers: Sequence[Answer]) -> Outcome:
    """The answers of a `Judge`, in the order of the queries, as an outcome."""
    values = {metric: np.array([answer.values[metric] for answer in answers]) for metric in annotations.plain}
    return Outcome(annotations, values, sum(answer.tied for answer in answers))


def score_rows(
    method: str, benchmark: Benchmark, answers: Mapping[int | None, Sequence[Answer]], rounds: int = 1000
) -> Iterator[dict[str, object]]:
    """Rows of `SCORES`: every metric over all queries, then `metric/tag` for the benchmark's per-tag metric.

    Args:
        method: name of the method.
        benchmark: the answers' benchmark.
        answers: by seed (None for a method without one), in the order of the benchmark's queries. With several seeds a
            query's value is the mean over them, and the interval is over queries.
        rounds: of the bootstrap.
    """
    runs = list(answers.values())
    tags = sorted({tag for query in benchmark.queries for tag in query.tags}) if benchmark.per_tag else []
    cells: list[tuple[str, str | None]] = [(metric, None) for metric in benchmark.metrics]
    cells += [(str(benchmark.per_tag), tag) for tag in tags]
    for metric, tag in cells:
        chosen = [place for place, query in enumerate(benchmark.queries) if tag is None or tag in query.tags]
        values = 100 * np.array([[run[place].values[metric] for place in chosen] for run in runs]).mean(axis=0)
        low, high = bootstrap_interval(values, rounds=rounds)
        yield {
            "method": method,
            "benchmark": benchmark.name,
            "split": benchmark.split,
            "protocol": canonical(dict(benchmark.protocol)),
            "metric": metric if tag is None else f"{metric}/{tag}",
            "value": float(values.mean()),
            "low": low,
            "high": high,
            "queries": len(chosen),
            "seeds": len(runs),
        }


def scores_table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Rows of `score_rows` as a table of `SCORES`."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCORES)


def predictions_table(method: str, benchmark: Benchmark, seed: int | None, answers: Sequence[Answer]) -> pa.Table:
    """The ranked images of every answer as a table of `PREDICTIONS`, ranks from 1."""
    lengths = [len(answer.ranked) for answer in answers]
    size = sum(lengths)
    columns = [
        pa.repeat(method, size),
        pa.repeat(benchmark.name, size),
        pa.array([seed] * size, pa.int32()),
        pa.array([answer.query.query_id for answer, n in zip(answers, lengths, strict=True) for _ in range(n)]),
        pa.array([rank for n in lengths for rank in range(1, n + 1)], pa.int32()),
        pa.array([image for answer in answers for image in answer.ranked], pa.string()),
        pa.array([score for answer in answers for score in answer.scores], pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS)
