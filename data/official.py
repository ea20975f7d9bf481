"""Judging a model's answers on a real benchmark by that benchmark's own rules."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from data.annotations import Annotations, Rule
from data.benchmarks import Benchmark, Query
from data.protocols import Answer, Judge
from data.rankings import first_places, hidden_places
from data.scoring import Outcome, ScoredRanking, subset_members, worth


class OfficialJudge(Judge):
    """A `Judge` with the evaluator's rule for ties, FashionIQ's categories and GeneCIS' own galleries.

    Args:
        annotations: the queries that are asked, with their galleries.
        benchmark: the same queries, with their images; its gallery is the order of the scores.
        depth: ranked images to keep per answer.
    """

    def __init__(self, annotations: Annotations, benchmark: Benchmark, depth: int = 50) -> None:
        super().__init__(benchmark, depth)
        if tuple(query.query_id for query in annotations.queries) != tuple(one.query_id for one in benchmark.queries):
            raise ValueError(f"{benchmark.name}: annotations and benchmark do not ask the same queries")
        self.annotations = annotations
        self.plain = list(dict.fromkeys(metric.split("/")[-1] for metric in annotations.metrics))
        self.rule: Rule = "target_last" if annotations.protocol.ties == "pessimistic" else annotations.official
        self._row = {image: row for row, image in enumerate(benchmark.gallery)}
        self._held: tuple[tuple[str, ...], npt.NDArray[np.intp], dict[str, int]] | None = None

    def answer(self, query: Query, scores: npt.NDArray[np.float32]) -> Answer:
        """See `Judge.answer`; `ranked` keeps the order of the candidates among equal scores."""
        candidates = self.annotations.candidates(query)
        rows, places = self._places_of(candidates)
        own = scores[rows]
        hidden = hidden_places(self.annotations, query, places)
        ranking = ScoredRanking(query, own, places, hidden)
        order = np.argsort(-own, kind="stable")
        if hidden:
            order = order[~np.isin(order, hidden)]
        order = order[: self.depth]
        members = subset_members(self.annotations, query)
        values, best, worst = (
            worth(self.plain, query, ranking, rule, members) for rule in (self.rule, "target_first", "target_last")
        )
        return Answer(
            query=query,
            ranked=tuple(candidates[place] for place in order),
            scores=tuple(map(float, own[order])),
            values=dict(zip(self.plain, values, strict=True)),
            tied=best != worst,
        )

    def _places_of(self, candidates: tuple[str, ...]) -> tuple[npt.NDArray[np.intp], dict[str, int]]:
        """Rows of the candidates among the gallery, and their places among themselves; queries in a row share them."""
        if self._held is None or self._held[0] is not candidates:
            rows = np.array([self._row[image] for image in candidates], dtype=np.intp)
            self._held = (candidates, rows, first_places(candidates))
        return self._held[1], self._held[2]


def outcome(annotations: Annotations, answers: Sequence[Answer]) -> Outcome:
    """The answers of an `OfficialJudge`, in the order of the queries, as an outcome."""
    plain = list(dict.fromkeys(metric.split("/")[-1] for metric in annotations.metrics))
    values = {metric: np.array([answer.values[metric] for answer in answers]) for metric in plain}
    return Outcome(annotations, values, sum(answer.tied for answer in answers))


def restrict(annotations: Annotations, benchmark: Benchmark) -> Annotations:
    """The annotations of a benchmark that lost images: the queries and gallery images that are left."""
    left = frozenset(benchmark.gallery)
    return replace(
        annotations,
        queries=benchmark.queries,
        galleries={part: tuple(one for one in ids if one in left) for part, ids in annotations.galleries.items()},
    )
