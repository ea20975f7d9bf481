"""Reading a ranking: the candidates of one reference after the other, some thousand rows in memory at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from data.artifact import Artifact
from data.draws import lot
from data.schemas import RANKING
from data.windows import Window

ROWS = 131_072
"""Rows read at a time; those of the last reference among them wait for the next ones."""


class Candidates(NamedTuple):
    """What the ranking of one reference holds, nearest first: place 0 is rank 1.

    Attributes:
        reference_id: the reference.
        ids: (n,) candidate ids.
        scores: (n,) float32, falling.
    """

    reference_id: str
    ids: pa.StringArray
    scores: npt.NDArray[np.float32]


def by_reference(ranking: Artifact) -> Iterator[Candidates]:
    """Every reference of a ranking with its candidates, in the order of the file: by reference id.

    Raises:
        ValueError: if the file has another schema, or a reference's rows are not together in the order of their ranks.
    """
    path = ranking.file("ranking.parquet")
    with pq.ParquetFile(path, memory_map=True) as file:
        _check_schema(file, ranking)
        held = RANKING.empty_table().combine_chunks().to_batches()
        for batch in file.iter_batches(batch_size=ROWS):
            rows = pa.concat_batches([*held, batch])
            starts = _starts(rows)
            yield from _lists(rows, starts)
            held = [rows.slice(int(starts[-1]))]  # whole only when the next list begins
        for rows in held:
            yield from _lists(rows, np.array([0, len(rows)]))


def _starts(rows: pa.RecordBatch) -> npt.NDArray[np.intp]:
    """Where lists begin: at every rank 1."""
    ranks = rows["rank"].to_numpy()
    follows = (np.diff(ranks) == 1) | (ranks[1:] == 1)
    if ranks[0] != 1 or not follows.all():
        raise ValueError("the ranks of a ranking run 1, 2, 3, ... for each reference, but here they do not; rank again")
    return np.flatnonzero(ranks == 1)


def _lists(rows: pa.RecordBatch, bounds: npt.NDArray[np.intp]) -> Iterator[Candidates]:
    """The lists between neighbouring bounds."""
    references = rows["reference_id"]
    firsts, lasts = references.take(pa.array(bounds[:-1])), references.take(pa.array(bounds[1:] - 1))
    if len(firsts) and not pc.all(pc.equal(firsts, lasts)).as_py():
        raise ValueError("a ranking begins each reference at rank 1, but here one does not; rank again")
    scores = rows["score"].to_numpy()
    for place, reference in enumerate(firsts.to_pylist()):
        part = slice(bounds[place], bounds[place + 1])
        yield Candidates(reference, rows["candidate_id"][part], scores[part])


def references(ranking: Artifact) -> list[str]:
    """The ids of all references of a ranking, ascending; errors as of `by_reference`."""
    with pq.ParquetFile(ranking.file("ranking.parquet"), memory_map=True) as file:
        _check_schema(file, ranking)
        found: list[str] = []
        for batch in file.iter_batches(batch_size=ROWS, columns=["reference_id", "rank"]):
            found += batch.filter(pc.equal(batch["rank"], 1))["reference_id"].to_pylist()
    return found


def _check_schema(file: pq.ParquetFile, ranking: Artifact) -> None:
    if not file.schema_arrow.equals(RANKING, check_metadata=False):
        raise ValueError(f"the ranking at {ranking.path} has another schema than expected; run {ranking.stage} again")


class Reach:
    """A window over one ranking: which places of a reference's list it takes, or why none."""

    def __init__(self, window: Window, ranking: Artifact) -> None:
        """Raises a ValueError if the ranking was cut off before the window ends."""
        self.window = window
        self.pool = max(0, ranking.counts.read - 1)
        depth = ranking.manifest["config"].get("depth")
        self.depth = None if depth is None else int(depth)
        self.ranks = window.ranks(self.pool)
        self.cut_off = 0
        if self.ranks is not None and self.depth is not None and self.ranks.stop - 1 > self.depth:
            raise ValueError(
                f"the window of {window} ends at rank {self.ranks.stop - 1}, but the ranking keeps only {self.depth}"
                f" candidates; set rank.depth to at least {self.ranks.stop - 1}"
            )

    def places(self, candidates: Candidates) -> npt.NDArray[np.intp] | str:
        """Places of the window, rank 1 at place 0; or the reason why the reference has none."""
        scores = candidates.scores
        if self.ranks is not None:
            if len(scores) < self.ranks.stop - 1:
                return "ranking_too_short"
            return np.arange(self.ranks.start - 1, self.ranks.stop - 1)
        is_cut = len(scores) < self.pool and bool(scores[-1] >= self.window.low)
        places = np.flatnonzero((scores >= self.window.low) & (scores <= self.window.high))
        if not len(places):
            return "ranking_too_short" if is_cut else "nothing_in_window"
        self.cut_off += is_cut
        return places

    def detail(self) -> dict[str, JsonValue]:
        """The window, for the report; for one by score, how many references' bands go on below the ranking's end."""
        found: dict[str, JsonValue] = {"window": [self.window.low, self.window.high], "by": self.window.by}
        if self.window.by == "percentile" and self.ranks is not None:
            found["ranks"] = [self.ranks.start, self.ranks.stop - 1]
        if self.ranks is None:
            found["window_goes_on_below_the_ranking"] = self.cut_off
        return found


def drawn_place(seed: int, reference_id: str, count: int) -> int:
    """Which of `count` candidates a reference draws: uniform, as 2^256 is so much larger than any window."""
    return lot("rank", seed, reference_id) % count
