"""How a benchmark turns the scores of a method into ranked answers and metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.benchmarks import Benchmark, Query
from data.metrics import average_precision_at, recall_at

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
    """In [0, 1], by each metric of the benchmark."""
    tied: bool
    """Whether the order of equal scores could change a value."""


class Judge:
    """Scores queries of one benchmark by its protocol.

    Equal scores keep the order of the gallery (a stable sort); `Answer.tied` says where that mattered.
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
        """Rank the gallery for one query.

        Args:
            query: of this judge's benchmark.
            scores: (N,), one per gallery image in gallery order, higher is closer.

        Raises:
            ValueError: if a score is not finite, or all are equal: such a method ranks nothing, and a stable sort would
                reward whatever happens to come first.
        """
        hidden = self._hidden(query)
        self._check(query, scores, hidden)
        order = np.argsort(-scores, kind="stable")
        if hidden is not None:
            order = order[order != hidden]
        top = self._ids(order[: max(self.depth, self.cut)])
        look_alikes = np.array(sorted(self._place[image] for image in query.subset), dtype=np.intp)
        subset = self._ids(look_alikes[np.argsort(-scores[look_alikes], kind="stable")])
        return Answer(
            query=query,
            ranked=tuple(top[: self.depth]),
            scores=tuple(float(score) for score in scores[order[: self.depth]]),
            values={name: _value(kind, k, query, top, subset) for name, (kind, k) in self.metrics.items()}
            if query.targets
            else {},
            tied=self._tied(query, scores, hidden),
        )

    def _hidden(self, query: Query) -> int | None:
        """Place of the image that the protocol takes out of the gallery for this query."""
        return self._place.get(query.reference_id) if self.benchmark.protocol["reference"] == "mask" else None

    def _check(self, query: Query, scores: Scores, hidden: int | None) -> None:
        where = f"benchmark {self.benchmark.name!r}, query {query.query_id!r}"
        if scores.shape != (len(self.benchmark.gallery),):
            raise ValueError(f"{where}: scores of shape {scores.shape}, want ({len(self.benchmark.gallery)},)")
        broken = int((~np.isfinite(scores)).sum())
        if broken:
            raise ValueError(f"{where}: {broken} of {len(scores)} scores are not finite; look for NaN in the tokens")
        open_scores = scores if hidden is None else np.delete(scores, hidden)
        if len(open_scores) > 1 and open_scores.min() == open_scores.max():
            raise ValueError(
                f"{where}: all {len(open_scores)} scores are {open_scores[0]:g}; the tokens have collapsed to one point"
            )

    def _ids(self, places: Places) -> list[str]:
        return [self.benchmark.gallery[place] for place in places]

    def _tied(self, query: Query, scores: Scores, hidden: int | None) -> bool:
        """Whether a target within reach of the metrics shares its score with an image that is none."""
        rivals = np.ones(len(scores), dtype=bool)
        rivals[[self._place[target] for target in query.targets]] = False
        if hidden is not None:
            rivals[hidden] = False
        for target in query.targets:
            score = scores[self._place[target]]
            if (scores[rivals] > score).sum() < self.cut and (scores[rivals] == score).any():
                return True
        if not query.targets or not any(kind == "subset_recall" for kind, _ in self.metrics.values()):
            return False
        look_alikes = [self._place[image] for image in query.subset if image != query.targets[0]]
        return bool((scores[look_alikes] == scores[self._place[query.targets[0]]]).any())


def _value(kind: str, k: int, query: Query, ranked: Sequence[str], subset: Sequence[str]) -> float:
    if kind == "map":
        return average_precision_at(k, ranked, query.targets)
    return recall_at(k, subset if kind == "subset_recall" else ranked, query.targets[0])
