"""What Prefect's pages show of stages and runs beside their states: tables, progress, a link to the report.

Nothing here may stop a run: what Prefect does not take is noted in the run's messages.log.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID

from data.progress import Reporter
from tasks.display import dropped_by_reason
from tasks.runs import RunRecord, StageRecord

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
"""How often a stage's progress is sent; a shorter stage sends none."""

PAUSES = 20
"""What sending took, times this, passes before the next: a server that is slow or gone costs a run 5 % at most."""


def show_stage(recipe: str, row: StageRecord, detail: Mapping[str, Any]) -> None:
    """A table of what became of a stage's rows, beside its task run."""
    rows = [{"figure": name, "value": value} for name, value in (("read", row.read), ("kept", row.kept))]
    rows += [{"figure": f"dropped: {reason}", "value": number} for reason, number in sorted(row.dropped.items())]
    rows.append({"figure": "written", "value": row.written})
    rows += [{"figure": name, "value": _plain(value)} for name, value in detail.items()]
    _table(f"{recipe}-{row.stage}", rows, f"{row.stage}: {row.state}, artifact `{row.artifact}`")


def show_run(record: RunRecord, scores: Sequence[Mapping[str, Any]], report: Path | None) -> None:
    """Beside the flow run: a table of its stages, one of its scores, and where the report lies."""
    stages = [
        {"stage": row.stage, "state": row.state, "read": row.read, "kept": row.kept}
        | {"dropped": dropped_by_reason(row.dropped), "written": row.written, "seconds": row.seconds}
        | {"error": row.error}
        for row in record.stages
    ]
    _table(f"{record.recipe}-stages", stages, f"run {record.run}: {record.state}")
    if scores:
        show_scores(record.recipe, scores, f"percent, run {record.run}; details are in the report")
    if report is not None:
        show_link(f"{record.recipe}-report", report, f"report of run {record.run}")


def show_scores(name: str, scores: Sequence[Mapping[str, Any]], text: str) -> None:
    """A table of headline scores, rows of `data.schemas.SCORES`."""
    shown = ("benchmark", "split", "method", "metric", "value", "low", "high", "queries", "seeds")
    table = [{column: row[column] for column in shown} for row in scores if "/" not in row["metric"]]
    _table(f"{name}-scores", table, text)


def show_link(name: str, page: Path, text: str) -> None:
    """Where a page lies, an absolute path; browsers open it from its own machine only."""
    from prefect.artifacts import create_link_artifact

    _try(lambda: create_link_artifact(page.as_uri(), text, _key(name), str(page)))


class ShownProgress:
    """A reporter that also sends the progress to Prefect, in percent, as an artifact of the task run."""

    def __init__(self, recipe: str, stage: str, inner: Reporter | None) -> None:
        """Args: inner: another reporter, which is told everything too."""
        self._key = _key(f"{recipe}-{stage}-progress")
        self._stage = stage
        self._inner = inner
        self._lock = Lock()
        self._due = time.monotonic() + EVERY_SECONDS
        self._id: UUID | None = None
        self._context = copy_context()  # knows the task run; the work's threads do not

    @contextmanager
    def phase(self, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
        """As `data.progress.Reporter.phase`."""
        completed = done

        def advance(units: int) -> None:
            nonlocal completed
            with self._lock:
                completed += units
                began = time.monotonic()
                if total and began >= self._due:
                    text = f"{self._stage}: {completed:,} of {total:,} {unit}"
                    self._context.run(self._send, min(100.0, 100 * completed / total), text)
                    ended = time.monotonic()
                    self._due = ended + max(EVERY_SECONDS, PAUSES * (ended - began))

        if self._inner is None:
            yield advance
            return
        with self._inner.phase(total, unit, done) as tell:

            def both(units: int) -> None:
                tell(units)
                advance(units)

            yield both

    def _send(self, percent: float, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._id is None:
            self._id = _try(lambda: create_progress_artifact(percent, self._key, text))
        else:
            known = self._id
            _try(lambda: update_progress_artifact(known, percent, text))


def _table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    from prefect.artifacts import create_table_artifact

    _try(lambda: create_table_artifact(rows, _key(key), description))


def _try(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # whatever a server that is going away makes of it
        log.warning("Prefect does not show this artifact: %s: %s", type(error).__name__, error)
        return None


def _key(name: str) -> str:
    """Prefect's keys have small letters, digits and dashes only."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) or value is None else str(value)
