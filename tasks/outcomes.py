"""What became of every question of a stage, kept on the disk while the rows that need it are put together."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.replies import Rejected
from tasks.requests import Outcome

_WRITTEN_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Known:
    """An outcome as it is remembered.

    Attributes:
        texts: the answer's fields; None if there is no usable answer.
        reason, raw: why not, and what came instead; empty otherwise.
        request_id: of the last attempt; None if nothing was asked.
        again: whether it was withdrawn (see `Outcomes.withdraw`) and not answered since.
    """

    texts: Mapping[str, str] | None
    reason: str
    raw: str
    request_id: str | None
    again: bool = False


class Outcomes:
    """Outcomes by step and row, in a scratch file that is removed in the end. A context manager.

    Everything in it can be had again from the ledger, so it is written without any care for crashes.
    """

    def __init__(self, path: Path) -> None:
        """Start with an empty file at `path`."""
        path.unlink(missing_ok=True)
        self._path = path
        self._buffer: list[tuple[str, str, str | None, str, str, str | None, bool]] = []
        # Autocommit: the journal is off, so a transaction would buy nothing.
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.executescript(
            """
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_size = -512;
            CREATE TABLE outcomes (
                step TEXT, row_id TEXT, texts TEXT, reason TEXT, raw TEXT, request_id TEXT, again INTEGER,
                PRIMARY KEY (step, row_id)
            ) WITHOUT ROWID;
            CREATE TABLE withdrawn (request_id TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID;
            """
        )

    def put(self, step: str, outcome: Outcome) -> None:
        """Remember an outcome; it replaces an earlier one of the same row."""
        texts, reason = (None, outcome.texts.reason) if isinstance(outcome.texts, Rejected) else (outcome.texts, "")
        written = None if texts is None else json.dumps(dict(texts))
        self._buffer.append((step, outcome.row_id, written, reason, outcome.raw, outcome.request_id, False))
        if len(self._buffer) >= _WRITTEN_AT_ONCE:
            self._flush()

    def find(self, step: str, row_ids: Iterable[str]) -> dict[str, Known]:
        """The outcomes of some rows in a step, as far as there are any."""
        self._flush()
        found = self._file.execute(
            "SELECT row_id, texts, reason, raw, request_id, again FROM outcomes"
            " WHERE step = ? AND row_id IN (SELECT value FROM json_each(?))",
            (step, json.dumps(list(row_ids))),
        )
        return {
            row_id: Known(None if texts is None else json.loads(texts), reason, raw, request_id, bool(again))
            for row_id, texts, reason, raw, request_id, again in found
        }

    def withdraw(self, step: str, row_id: str, known: Known, reason: str) -> None:
        """Take back a text that was accepted: its row is without one, for `reason`, until it is answered anew."""
        raw = json.dumps(dict(known.texts or {}), ensure_ascii=False)
        self._buffer.append((step, row_id, None, reason, raw, known.request_id, True))
        self._flush()
        if known.request_id is not None:
            self._file.execute("INSERT OR IGNORE INTO withdrawn VALUES (?, ?)", (known.request_id, reason))

    def withdrawn(self, request_ids: Sequence[str]) -> dict[str, str]:
        """Of some requests those whose answer was taken back, and why."""
        found = self._file.execute(
            "SELECT request_id, reason FROM withdrawn WHERE request_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(request_ids)),),
        )
        return dict(found.fetchall())

    def __enter__(self) -> "Outcomes":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._buffer:
            self._file.execute("BEGIN")
            self._file.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)", self._buffer)
            self._file.execute("COMMIT")
            self._buffer.clear()
