"""What there is to look at: a table of triplets with everything it stands on that the store still has."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from data.artifact import Artifact
from data.schemas import RANKING, REJECTED
from tasks.curation import Curation, Opinion, curation_folder, judged_digest
from tasks.lineage import find_with, lineage
from tasks.view_images import Pictures
from tasks.view_sql import parquet
from tasks.view_table import NOBODY, SAID, Judged, Row, TripletTable


@dataclass(frozen=True)
class Reason:
    """Rows that a stage dropped for one reason."""

    stage: str
    reason: str
    count: int


class Source:
    """An artifact with triplets, opened; any number of threads may ask.

    Attributes:
        artifact: it.
        line: the artifact and all it stands on, inputs first.
        pictures: the images.
        kept: its triplets.
        dropped: those that the filters before it dropped, or None.
        curation: what people said.
    """

    def __init__(self, artifact: Artifact) -> None:
        """Open an artifact.

        Raises:
            LookupError: if its images are not in the store any more.
            ValueError: if a table has another schema than it should.
        """
        self.artifact = artifact
        self.line = lineage(artifact)
        images = self._with("images.parquet")
        if images is None:
            raise LookupError(
                f"{artifact.stage} at {artifact.path} stands on images that are not in the store any more; make them"
                " again with its run"
            )
        self.pictures = Pictures(images)
        self.curation = Curation(curation_folder(artifact))
        self._lock = threading.Lock()
        self._heard = -1
        self._judged = NOBODY
        filtered = self._with("verdicts.parquet")
        verdicts = None if filtered is None else filtered.file("verdicts.parquet")
        self.kept = TripletTable(artifact.file("triplets.parquet"), verdicts, judged=self.judged)
        self.dropped: TripletTable | None = None
        if filtered is not None and (filtered.path / "dropped.parquet").is_file():
            rejected = filtered.file("rejected.parquet")
            self.dropped = TripletTable(filtered.file("dropped.parquet"), verdicts, rejected)

    def judged(self) -> Judged:
        """What people say of these triplets, those included that other processes wrote down meanwhile."""
        self.curation.refresh()
        with self._lock:
            if self.curation.version != self._heard:
                version = self.curation.version
                rows = [
                    {"triplet_id": row["triplet_id"], "verdict": opinion.verdict, "tags": sorted(opinion.tags)}
                    for row, opinion in self._current()
                ]
                self._judged = Judged(pa.Table.from_pylist(rows, schema=SAID) if rows else None, version)
                self._heard = version
            return self._judged

    def _current(self) -> list[tuple[Row, Opinion]]:
        """The triplets that people said something of, if they still have the words that were judged."""
        opinions = self.curation.opinions()
        if not opinions:
            return []
        ids = pa.table({"triplet_id": pa.array(sorted({one for one, _ in opinions}), pa.string())})
        columns = "triplet_id, reference_id, modification, target_id, target_text"
        rows = self.kept.ask(f"SELECT {columns} FROM {{t}} WHERE triplet_id IN (SELECT triplet_id FROM ids)", ids=ids)
        keys = [(row, (row["triplet_id"], judged_digest(row))) for row in rows]
        return [(row, opinions[key]) for row, key in keys if key in opinions]

    def answers(self, request_ids: Sequence[str]) -> list[Row]:
        """What was asked to write a triplet and the raw answers, in the order of the requests."""
        found = self._rows("generations.parquet", "request_id", request_ids)
        by_id = {row["request_id"]: row for row in found}
        return [by_id[one] for one in request_ids if one in by_id]

    @cached_property
    def prompts(self) -> dict[str, str]:
        """Names of the prompts that the triplets were written with, by digest."""
        asked = [one.manifest["facts"].get("prompts", {}) for one in self.line]
        return {digest: name for prompts in asked for name, digest in prompts.items()}

    def neighbours(self, reference_id: str, first: int, around: int | None) -> list[Row]:
        """Candidates of a reference by rank: the first ones, and those next to a rank; empty without a ranking."""
        ranking = self._with("ranking.parquet")
        if ranking is None:
            return []
        near = -10 if around is None else around
        return self.kept.ask(
            f"SELECT {', '.join(RANKING.names)} FROM {parquet(ranking.file('ranking.parquet'))}"
            " WHERE reference_id = ? AND (rank <= ? OR rank BETWEEN ? AND ?) ORDER BY rank",
            [reference_id, first, near - 2, near + 2],
        )

    @cached_property
    def reasons(self) -> list[Reason]:
        """Why rows were dropped on the way, in the order of the stages."""
        found = []
        for one in self.line:
            counts = one.counts.dropped
            found += [Reason(one.stage, name, count) for name, count in sorted(counts.items(), key=_most) if count]
        return found

    def rejected(self, reason: Reason, start: int, count: int) -> list[Row]:
        """Some rows that were dropped for a reason; empty if the stage keeps only their number."""
        one = next(one for one in self.line if one.stage == reason.stage and reason.reason in one.counts.dropped)
        path = one.path / "rejected.parquet"
        if not path.is_file():
            return []
        return self.kept.ask(
            f"SELECT {', '.join(REJECTED.names)} FROM {parquet(path)} WHERE reason = ? LIMIT ? OFFSET ?",
            [reason.reason, count, start],
        )

    def pairs(self, pair_ids: Sequence[str]) -> dict[str, Row]:
        """Reference and target of pairs by id, where there is such a table."""
        return {row["pair_id"]: row for row in self._rows("pairs.parquet", "pair_id", pair_ids)}

    def _rows(self, name: str, column: str, ids: Sequence[str]) -> list[Row]:
        """Rows of all tables of a name in the line whose column is one of some ids."""
        found: list[Row] = []
        for one in self.line if ids else []:
            if (one.path / name).is_file():
                marks = ", ".join("?" * len(ids))
                found += self.kept.ask(f"SELECT * FROM {parquet(one.file(name))} WHERE {column} IN ({marks})", ids)
        return found

    def _with(self, name: str) -> Artifact | None:
        """The nearest artifact in the line that has a file."""
        return next((one for one in reversed(self.line) if (one.path / name).is_file()), None)


def _most(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]


def open_source(name: str | None) -> Source:
    """The triplets of a run, an artifact or, without a name, of the last run; errors as of `find_with`."""
    return Source(find_with(name, "triplets.parquet"))
