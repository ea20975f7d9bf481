"""How a benchmark turns the scores of a method into ranked answers and metrics, and these into tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.benchmarks import Benchmark, Query
from data.keys import canonical
from data.metrics import average_precision_at, bootstrap_interval, recall_at
from data.schemas import PREDICTIONS, SCORES

Scores = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]


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
    """Scores queries of one benchmark by its protocol.

    Equal scores keep the order of the gallery (a stable sort), or put targets last where `protocol["ties"]` is
    "pessimistic"; `Answer.tied` says where that mattered.
    """

    def __init__(self, benchmark: Benchmark, depth: int = 50) -> None:
        """Keep the first `depth` images of each answer; metrics look as deep as they must."""
        names = [*benchmark.metrics, *([benchmark.per_tag] if benchmark.per_tag else [])]
        self.benchmark = benchmark
        self.metrics = {name: (name.split("@")[0], int(name.split("@")[1])) for name in names}
        self.depth = depth
        self.cut = max((k for _, k in self.metrics.values()), default=0)
        self._place = {image: place for place, image in enumerate(benchmark.gallery)}

    def answer(self, query: Query, scores: Scores) -> Answer:
        """Rank the gallery, or the query's own candidates, for one query.

        Args:
            query: of this judge's benchmark.
            scores: (N,), one per gallery image in gallery order, higher is closer. Those of images that the query
                does not rank are not looked at.

        Raises:
            ValueError: if a score is not finite, or all are equal: such a method ranks nothing, and a stable sort would
                reward whatever happens to come first.
        """
        competing = self._competing(query)
        self._check(query, scores, competing)
        order = self._order(query, competing, scores)
        top = self._ids(order[: max(self.depth, self.cut)])
        subset = self._ids(self._order(query, self._places(query.subset), scores))
        return Answer(
            query=query,
            ranked=tuple(top[: self.depth]),
            scores=tuple(float(score) for score in scores[order[: self.depth]]),
            values={name: _value(kind, k, query, top, subset) for name, (kind, k) in self.metrics.items()}
            if query.targets
            else {},
            tied=self._tied(query, scores, competing),
        )

    def _competing(self, query: Query) -> Places:
        """Places of the images that are ranked for this query, in gallery order."""
        places = self._places(query.candidates) if query.candidates else np.arange(len(self.benchmark.gallery))
        if self.benchmark.protocol["reference"] == "mask":
            places = places[places != self._place.get(query.reference_id, -1)]
        return places

    def _order(self, query: Query, places: Places, scores: Scores) -> Places:
        late = np.zeros(len(places), dtype=bool)
        if self.benchmark.protocol.get("ties") == "pessimistic":
            late = np.isin(places, self._places(query.targets))
        order: Places = np.lexsort((late, -scores[places]))  # stable: what is equal in both stays as it was
        return places[order]

    def _places(self, images: Sequence[str]) -> Places:
        return np.array(sorted({self._place[image] for image in images}), dtype=np.intp)

    def _ids(self, places: Places) -> list[str]:
        return [self.benchmark.gallery[place] for place in places]

    def _check(self, query: Query, scores: Scores, competing: Places) -> None:
        where = f"benchmark {self.benchmark.name!r}, query {query.query_id!r}"
        if scores.shape != (len(self.benchmark.gallery),):
            raise ValueError(f"{where}: scores of shape {scores.shape}, want ({len(self.benchmark.gallery)},)")
        ranked = scores[competing]
        broken = int((~np.isfinite(ranked)).sum())
        if broken:
            raise ValueError(f"{where}: {broken} of {len(ranked)} scores are not finite; look for NaN in the tokens")
        if len(ranked) > 1 and ranked.min() == ranked.max():
            raise ValueError(
                f"{where}: all {len(ranked)} scores are {ranked[0]:g}; the tokens have collapsed to one point"
            )

    def _tied(self, query: Query, scores: Scores, competing: Places) -> bool:
        """Whether a target within reach of the metrics shares its score with an image that is none."""
        wrong = np.ones(len(scores), dtype=bool)
        wrong[self._places(query.targets)] = False
        rivals = scores[competing[wrong[competing]]]
        for target in query.targets:
            score = scores[self._place[target]]
            if (rivals > score).sum() < self.cut and (rivals == score).any():
                return True
        if not query.targets or not any(kind == "subset_recall" for kind, _ in self.metrics.values()):
            return False
        look_alikes = self._places([image for image in query.subset if image != query.targets[0]])
        return bool((scores[look_alikes] == scores[self._place[query.targets[0]]]).any())


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


def _value(kind: str, k: int, query: Query, ranked: Sequence[str], subset: Sequence[str]) -> float:
    if kind == "map":
        return average_precision_at(k, ranked, query.targets)
    among = subset if kind == "subset_recall" else ranked
    if not query.gains:
        return recall_at(k, among, query.targets[0])
    # CIRR's authors (CIRPLANT): the best of what was found counts, so that a hit is never worth less than a miss.
    return max(gain * recall_at(k, among, target) for target, gain in zip(query.targets, query.gains, strict=True))
