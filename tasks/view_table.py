"""A table of triplets of any size, looked into without loading it: filtered, sorted, searched and paged by DuckDB.

A question is answered by the numbers of the rows it selects, four bytes a row, and a page by reading its rows alone.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.artifact import same_schema
from data.schemas import REJECTED, TRIPLETS, VERDICTS
from tasks.view_columns import COLUMNS, FILTERED, Column, Condition, as_sql, find_column, searched
from tasks.view_sql import connect, parquet, quoted, rows_of

Numbers = npt.NDArray[np.int32]
Row = dict[str, Any]

_KEPT = 8  # answers that are remembered; 4 MB each of a million rows


@dataclass(frozen=True)
class Question:
    """Which triplets, in which order.

    Attributes:
        search: words that all have to be in the texts; parts in double quotes stay together.
        conditions: all have to hold.
        sort: a column; None for the order of the file.
        descending: largest first; rows without a value come last either way.
        verdict: "approved", "rejected", "judged" or "unjudged", by people; None: whatever they said.
        tag: that somebody put on it; None: any or none.
        sample: draw so many at random of those that the rest selects, whatever people said of them.
        seed: of the draw.
        reason: of a dropped triplet, why; None: any.
    """

    search: str = ""
    conditions: tuple[Condition, ...] = ()
    sort: str | None = None
    descending: bool = False
    verdict: str | None = None
    tag: str | None = None
    sample: int | None = None
    seed: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Judged:
    """What people said, as a table of `SAID` (None: nothing), and a number that grows."""

    table: pa.Table | None
    version: int


SAID = pa.schema([("triplet_id", pa.string()), ("verdict", pa.string()), ("tags", pa.list_(pa.string()))])
# Not an empty table: making one imports pandas, which takes seconds.
NOBODY = Judged(None, 0)


class TripletTable:
    """The triplets of one Parquet file; any number of threads may ask.

    Attributes:
        path: the file.
        rows: how many triplets it holds.
        columns: that one may filter and sort by; values of filters where there are verdicts.
    """

    def __init__(
        self,
        path: Path,
        verdicts: Path | None = None,
        rejected: Path | None = None,
        judged: Callable[[], Judged] = lambda: NOBODY,
    ) -> None:
        """Open a table.

        Args:
            path: of `TRIPLETS`.
            verdicts: of `VERDICTS`, of the filters that looked at these triplets.
            rejected: of `REJECTED`, if these are triplets that were dropped.
            judged: tells what people say now; asked before every question.

        Raises:
            ValueError: if a file has another schema than it should.
        """
        for file, schema in ((path, TRIPLETS), (verdicts, VERDICTS), (rejected, REJECTED)):
            if file is not None:
                same_schema(pq.read_schema(file), schema, str(file))
        self.path = path
        self.rows = int(pq.read_metadata(path).num_rows)
        self._judged = judged
        self._connection = connect()
        self._source = parquet(path, ", file_row_number = true")
        self._verdicts = None if verdicts is None else parquet(verdicts, ", file_row_number = true")
        self._rejected = None if rejected is None else parquet(rejected)
        self._answers: OrderedDict[tuple[Question, int], Numbers] = OrderedDict()
        self._lock = threading.Lock()
        names = [] if self._verdicts is None else self.ask(f"SELECT DISTINCT filter FROM {self._verdicts} ORDER BY 1")
        self.filters = [str(row["filter"]) for row in names]
        own = {FILTERED + name: Column("number", f'f{place}."value"') for place, name in enumerate(self.filters)}
        self.columns = {**COLUMNS, **own}

    def ask(self, sql: str, values: Sequence[Any] = (), **tables: pa.Table) -> list[Row]:
        """The rows of an SQL query; `{t}` in it stands for the triplets, and `tables` are there by their names."""
        return rows_of(self._connection, sql.replace("{t}", self._source), values, **tables)

    def select(self, question: Question) -> Numbers:
        """(n,) numbers of the rows that a question selects, in its order.

        Raises:
            LookupError: if there is no column of a name.
            ValueError: if a condition makes no sense.
        """
        judged = self._judged()
        key = (question, judged.version)
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        found = self._drawn(question, judged) if question.sample is not None else self._selected(question, judged)
        with self._lock:
            self._answers[key] = found
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return found

    def page(self, numbers: Numbers) -> list[Row]:
        """Whole rows by their numbers, in that order; each has its number as `row`."""
        wanted = ", ".join(str(int(number)) for number in numbers)
        if not wanted:
            return []
        found = self.ask(f"SELECT * FROM {{t}} t WHERE file_row_number IN ({wanted})")
        by_number = {row.pop("file_row_number"): row for row in found}
        return [{**by_number[int(number)], "row": int(number)} for number in numbers]

    def find(self, triplet_id: str) -> Row | None:
        """A triplet by its id."""
        found = self.ask("SELECT file_row_number FROM {t} WHERE triplet_id = ?", [triplet_id])
        return self.page(np.array([found[0]["file_row_number"]], np.int32))[0] if found else None

    @functools.lru_cache(maxsize=64)  # noqa: B019  a table lives as long as the process
    def common(self, column: str, most: int = 50) -> list[tuple[str, int]]:
        """The most frequent texts of a column, and how often each is there."""
        sql = find_column(column, COLUMNS).sql
        counted = f"SELECT {sql} AS value, count(*) AS n FROM {{t}} t WHERE {sql} IS NOT NULL GROUP BY 1"
        return [(row["value"], row["n"]) for row in self.ask(f"{counted} ORDER BY 2 DESC, 1 LIMIT {most}")]

    def reasons(self) -> list[tuple[str, int]]:
        """Of dropped triplets: why, and how many for each reason, the most frequent first."""
        if self._rejected is None:
            return []
        rows = self.ask(f"SELECT reason, count(*) AS n FROM {self._rejected} GROUP BY 1 ORDER BY 2 DESC, 1")
        return [(row["reason"], row["n"]) for row in rows]

    def why(self, triplet_ids: Sequence[str]) -> dict[str, Row]:
        """Of dropped triplets the rows that say why, by id."""
        if self._rejected is None or not triplet_ids:
            return {}
        marks = ", ".join("?" * len(triplet_ids))
        found = self.ask(f"SELECT * FROM {self._rejected} WHERE row_id IN ({marks})", triplet_ids)
        return {row["row_id"]: row for row in found}

    def verdicts(self, triplet_ids: Sequence[str]) -> dict[str, list[Row]]:
        """What each filter said of some triplets, in the order of the filters, by id.

        Triplets are stored by id, so the file's statistics leave out nearly all of it.
        """
        found: dict[str, list[Row]] = {}
        if self._verdicts is not None and triplet_ids:
            marks = ", ".join("?" * len(triplet_ids))
            sql = f"SELECT * FROM {self._verdicts} WHERE triplet_id IN ({marks}) ORDER BY file_row_number"
            for row in self.ask(sql, triplet_ids):
                found.setdefault(row["triplet_id"], []).append(row)
        return found

    def _drawn(self, question: Question, judged: Judged) -> Numbers:
        """A sample; what people say of it decides which of it are shown, not what is drawn."""
        everything = self._selected(replace(question, sample=None, verdict=None, tag=None, sort=None), judged)
        count = min(question.sample or 0, len(everything))
        drawn = np.random.default_rng(question.seed).choice(everything, count, replace=False).astype(np.int32)
        if question.verdict is None and question.tag is None:
            return drawn
        shown = self._selected(Question(verdict=question.verdict, tag=question.tag), judged)
        return np.asarray(drawn[np.isin(drawn, shown)], dtype=np.int32)

    def _selected(self, question: Question, judged: Judged) -> Numbers:
        tests, values = searched(question.search)
        used = [*(one.column for one in question.conditions), *([question.sort] if question.sort else [])]
        for condition in question.conditions:
            test, more = as_sql(condition, find_column(condition.column, self.columns))
            tests.append(test)
            values += more
        for test, more in _said(question):
            tests.append(test)
            values += more
        if question.reason is not None and self._rejected is not None:
            tests.append(f"t.triplet_id IN (SELECT row_id FROM {self._rejected} WHERE reason = ?)")
            values.append(question.reason)
        order = "t.file_row_number"
        if question.sort is not None:
            way = "DESC" if question.descending else "ASC"
            order = f"{find_column(question.sort, self.columns).sql} {way} NULLS LAST, t.file_row_number"
        joins = "".join(
            f" LEFT JOIN (SELECT triplet_id, value FROM {self._verdicts} WHERE filter = {quoted(name)}) f{place}"
            f" ON f{place}.triplet_id = t.triplet_id"
            for place, name in enumerate(self.filters)
            if FILTERED + name in used
        )
        where = f" WHERE {' AND '.join(tests)}" if tests else ""
        with self._connection.cursor() as cursor:
            if any("FROM judged" in test for test in tests):
                cursor.register("judged", SAID.empty_table() if judged.table is None else judged.table)
            # Arrow hands the numbers over; DuckDB's own way to NumPy imports pandas.
            found = cursor.sql(
                f"SELECT CAST(t.file_row_number AS INTEGER) AS n FROM {self._source} t{joins}{where} ORDER BY {order}",
                params=values,
            ).to_arrow_table()["n"]
        parts = [np.from_dlpack(chunk) for chunk in found.chunks]
        return np.concatenate([np.empty(0, np.int32), *parts], dtype=np.int32)


def _said(question: Question) -> list[tuple[str, list[Any]]]:
    """Conditions on what people said."""
    found: list[tuple[str, list[Any]]] = []
    if question.verdict in ("judged", "unjudged"):
        inside = "IN" if question.verdict == "judged" else "NOT IN"
        found.append((f"t.triplet_id {inside} (SELECT triplet_id FROM judged WHERE verdict IS NOT NULL)", []))
    elif question.verdict is not None:
        found.append(("t.triplet_id IN (SELECT triplet_id FROM judged WHERE verdict = ?)", [question.verdict]))
    if question.tag is not None:
        found.append(("t.triplet_id IN (SELECT triplet_id FROM judged WHERE list_contains(tags, ?))", [question.tag]))
    return found
