"""Records of runs: what was asked for, and what became of each stage.

`runs/<run>/run.json` is rewritten whole at every change, `log.jsonl` gets one line per stage, `messages.log` what
libraries have to say. A run holds a lock as long as its process lives; that is how a dead one is told from a slow one.
"""

import json
import logging
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from data.artifact import Artifact, Counts, write_json
from data.config import StageConfig
from data.suggest import did_you_mean
from tasks.display import Display, Held, choose_display
from tasks.locks import hold, is_held
from tasks.machine import machine
from tasks.store import home

log = logging.getLogger(__name__)

StageState = Literal["ran", "cached", "failed", "interrupted", "pending", "running"]


class StageRecord(BaseModel):
    """One stage of one run; rows are None as long as they are not known."""

    stage: str
    state: StageState = "pending"
    read: int | None = None
    kept: int | None = None
    dropped: dict[str, int] = {}
    written: int | None = None
    seconds: float | None = None
    artifact: str | None = None  # relative to CIRQUE_HOME
    key: str | None = None
    material: dict[str, Any] | None = None  # what the key is the digest of
    reason: str | None = None  # why it ran
    error: str | None = None
    attempts: int = 0  # more than one if an error passed


class RunRecord(BaseModel):
    """One run, as `run.json` keeps it."""

    run: str
    recipe: str
    state: Literal["running", "completed", "failed", "interrupted"] = "running"
    started: str
    ended: str | None = None
    config: dict[str, Any]
    rerun: list[str]
    until: str | None
    stages: list[StageRecord]
    machine: dict[str, Any] = {}  # for a report of a fault: what it ran on, and with which versions

    def stage_in_hand(self) -> str | None:
        """The stage that was being worked on when the run ended, or is now."""
        states = ("running", "failed", "interrupted")
        return next((row.stage for row in self.stages if row.state in states), None)


class RunError(Exception):
    """A run ended with an error, which is the `__cause__`."""

    def __init__(self, message: str, record: RunRecord, folder: Path) -> None:
        super().__init__(message)
        self.record = record
        self.folder = folder


class _Stop(Exception):  # noqa: N818  nothing went wrong
    """The stage named by `until` is done."""


class NotStored(Exception):  # noqa: N818  nothing went wrong
    """A stage would have to work, in a run that only takes what the store has."""


class ActiveRun:
    """The run in hand: what stages ask, and where they report.

    Attributes:
        stored_only: stages take their artifacts from the store, without Prefect, or raise NotStored.
    """

    def __init__(self, record: RunRecord, folder: Path, display: Display, stored_only: bool = False) -> None:
        self.record = record
        self.folder = folder
        self.display = display
        self.stored_only = stored_only

    @property
    def id(self) -> str:
        return self.record.run

    def admit(self, stage: str, arguments: Mapping[str, Any]) -> None:
        """Leave the flow if everything up to `until` is done, or if it is to be left before this stage.

        Raises:
            _Stop: caught by `start_run`, so that flows need not know of `until`.
        """
        for awaited in _awaited:
            if awaited.stage == stage:
                awaited.arguments = dict(arguments)
                raise _Stop
        until = self.record.until
        if until is None or stage == until:
            return
        if all(row.state in ("ran", "cached") for row in self.record.stages if row.stage == until):
            raise _Stop

    def begin(self, stage: str) -> StageRecord:
        rows = [row for row in self.record.stages if row.stage == stage and row.state in ("pending", "failed")]
        row = rows[0] if rows else StageRecord(stage=stage)
        if not rows:
            self.record.stages.append(row)
        row.state, row.error, row.seconds = "running", None, None
        row.attempts += 1
        self._save()
        self.display.begin(stage)
        return row

    def identify(self, row: StageRecord, key: str, material: Mapping[str, Any]) -> None:
        row.key, row.material = key, dict(material)
        self._save()

    def finish(self, row: StageRecord, state: StageState, artifact: Artifact, seconds: float) -> None:
        counts: Counts = artifact.counts
        row.state, row.seconds = state, round(seconds, 3)
        row.read, row.kept, row.written = counts.read, counts.kept, counts.written
        row.dropped = dict(counts.dropped)
        row.artifact = artifact.path.relative_to(home()).as_posix()
        self._save()
        self._log(row)
        self.display.end(row)

    def fail(self, row: StageRecord, error: BaseException, seconds: float) -> None:
        row.state = "failed" if isinstance(error, Exception) else "interrupted"
        row.seconds = round(seconds, 3)
        row.error = describe(error)
        with _on_a_full_disk():
            self._save()
            self._log(row, traceback="".join(traceback.format_exception(error)))
        self.display.end(row)

    def end(self, state: Literal["completed", "failed", "interrupted"], error: BaseException | None = None) -> None:
        self.record.state = state
        self.record.ended = _now()
        for row in self.record.stages:
            if row.state == "running" and state != "completed":  # a signal came between its beginning and its work
                row.state, row.error = state, describe(error) if error is not None else None
        with _on_a_full_disk() if error is not None else nullcontext():
            self._save()
            if error is not None and self.record.stage_in_hand() is None:  # else the stage's line has it
                self._log(None, error=describe(error), traceback="".join(traceback.format_exception(error)))

    def _save(self) -> None:
        write_json(self.folder / "run.json", self.record.model_dump(mode="json"))

    def _log(self, row: StageRecord | None, **more: str) -> None:
        line = {"time": _now(), "run": self.record.run, "recipe": self.record.recipe}
        facts = row.model_dump(mode="json", exclude={"material"}) if row else {"stage": None}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**line, **facts, **more}) + "\n")


@dataclass
class Awaited:
    """A stage before which flows are left, and what it was then to be called with, by parameter."""

    stage: str
    arguments: dict[str, Any] | None = None


_started: list[str] = []
_awaited: list[Awaited] = []
_current: ContextVar[ActiveRun | None] = ContextVar("cirque_run", default=None)
_stored_only: ContextVar[bool] = ContextVar("cirque_stored_only", default=False)


def current_run() -> ActiveRun | None:
    return _current.get()


def say(text: str) -> None:
    """Tell the user something while a stage works: on the run's display, outside a run on standard error."""
    run = current_run()
    if run is not None:
        run.display.say(text)
    else:
        print(text, file=sys.stderr)


@contextmanager
def stop_before(stage: str) -> Iterator[Awaited]:
    """Let the flows of this process that run in the block end, as completed, where they would call a stage."""
    awaited = Awaited(stage)
    _awaited.append(awaited)
    try:
        yield awaited
    finally:
        _awaited.remove(awaited)


@contextmanager
def from_store() -> Iterator[None]:
    """Let a run that starts in the block do without Prefect as long as the store has everything.

    Raises:
        NotStored: as soon as a stage would have to work; the run then never was.
    """
    token = _stored_only.set(True)
    try:
        yield
    finally:
        _stored_only.reset(token)


def started_here() -> list[str]:
    """Ids of the runs that this process started, the oldest first."""
    return list(_started)


@contextmanager
def start_run(
    recipe: str, stages: Sequence[str], config: StageConfig, rerun: Sequence[str] = (), until: str | None = None
) -> Iterator[ActiveRun]:
    """Record the enclosed flow as a run; stages called within report to it.

    Args:
        recipe: the recipe's name.
        stages: names of its stages, in order.
        config: kept in the record.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do; the flow is left when it calls the next one.

    Raises:
        ValueError: if `rerun` or `until` are not stages, or contradict each other.
        RunError: if a stage fails; the message names the stage.
        NotStored: within `from_store`, if the store has not all of it.
    """
    problems = check_stages(stages, rerun, until)
    if problems:
        raise ValueError("; ".join(problems))
    folder = _new_folder(home() / "runs")
    record = RunRecord(
        run=folder.name,
        recipe=recipe,
        started=_now(),
        config=config.model_dump(mode="json"),
        rerun=list(rerun),
        until=until,
        stages=[StageRecord(stage=stage) for stage in stages],
        machine=machine(),
    )
    with ExitStack() as stack:
        stack.enter_context(hold(folder / "lock", waiting=lambda holder: None))
        stack.enter_context(_messages_to(folder / "messages.log"))
        held = Held() if _stored_only.get() else None
        run = ActiveRun(record, folder, held or stack.enter_context(choose_display()), stored_only=held is not None)
        token = _current.set(run)
        stack.callback(_current.reset, token)
        run._save()
        _started.append(run.id)
        try:
            yield run
        except _Stop:
            run.end("completed")
        except NotStored:
            _started.remove(run.id)
            shutil.rmtree(folder)
            raise
        except Exception as error:
            run.end("failed", error)
            raise RunError(_failure(record, folder, error), record, folder) from error
        except BaseException as error:
            run.end("interrupted", error)
            raise
        else:
            run.end("completed")
        if held is not None:
            held.tell(stack.enter_context(choose_display()))


def check_stages(stages: Sequence[str], rerun: Sequence[str], until: str | None) -> list[str]:
    """What is wrong with the names given for `rerun` and `until`; empty if nothing is."""
    problems = [
        f"no stage {name!r} to {what};{did_you_mean(name, stages)}"
        for what, names in (("rerun", rerun), ("stop after", [until] if until else []))
        for name in names
        if name not in stages
    ]
    if until is not None and until in stages:
        last = len(stages) - 1 - list(reversed(stages)).index(until)
        problems += [
            f"stage {name!r} is to be rerun but comes after {until!r}, where the run is to stop"
            for name in rerun
            if name in stages and stages.index(name) > last
        ]
    return problems


def describe(error: BaseException) -> str:
    """An error in words; types that do not say themselves what went wrong are named."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    plain = isinstance(error, (ValueError, LookupError, OSError, MemoryError))
    spoken = plain or type(error).__module__.startswith("data.")
    return text if spoken and text else f"{type(error).__name__}{': ' + text if text else ''}"


def recorded_runs() -> list[str]:
    """Ids of all runs, the oldest first."""
    return sorted(path.parent.name for path in (home() / "runs").glob("*/run.json"))


def load_run(run: str) -> RunRecord:
    """A run's record; what a dead process left `running` is `interrupted`.

    Raises:
        LookupError: if there is no such run, or its record cannot be read.
    """
    folder = home() / "runs" / run
    alive = is_held(folder / "lock")  # asked first: a run that ends meanwhile has written its last record
    try:
        record = RunRecord.model_validate_json((folder / "run.json").read_bytes())
    except FileNotFoundError:
        raise LookupError(f"no run {run!r} in {folder.parent};{did_you_mean(run, recorded_runs())}") from None
    except ValidationError as error:
        raise LookupError(
            f"{folder / 'run.json'} is damaged or of another version ({_first(error)}); move {folder} out of the way"
        ) from error
    if record.state == "running" and not alive:
        record.state = "interrupted"
        for row in record.stages:
            if row.state == "running":
                row.state, row.error = "interrupted", "its process died"
    return record


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return ": ".join([*(str(part) for part in found["loc"]), str(found["msg"])])


def _failure(record: RunRecord, folder: Path, error: Exception) -> str:
    stage = record.stage_in_hand()
    where = f"stage {stage!r}" if stage else f"recipe {record.recipe!r}"
    return f"{where} failed: {describe(error)}\n(full traceback: {folder / 'log.jsonl'})"


def _new_folder(runs: Path) -> Path:
    while True:
        now = datetime.now(UTC)
        folder = runs / f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.001)
        else:
            return folder


@contextmanager
def _messages_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def _on_a_full_disk() -> Iterator[None]:
    """Do not let an error be hidden by that it cannot be written down: its message is still printed."""
    try:
        yield
    except OSError as error:
        log.warning("the run's record could not be written: %s", error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
