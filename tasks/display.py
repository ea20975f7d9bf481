"""What a run shows while it works: a bar per stage on a terminal, else one plain line per stage."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from data.progress import Reporter

_WIDTH = 100


class Row(Protocol):
    """What a display wants to know of a finished stage."""

    @property
    def stage(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def read(self) -> int | None: ...
    @property
    def kept(self) -> int | None: ...
    @property
    def dropped(self) -> dict[str, int]: ...
    @property
    def written(self) -> int | None: ...
    @property
    def seconds(self) -> float | None: ...


class Display(Protocol):
    def begin(self, stage: str) -> None: ...
    def reporter(self, stage: str) -> Reporter | None: ...
    def end(self, row: Row) -> None: ...
    def say(self, text: str) -> None: ...


@contextmanager
def choose_display(stream: TextIO | None = None) -> Iterator[Display]:
    """Bars if `stream` (default: standard error) is a terminal, lines otherwise."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Lines(stream)
        return
    console = Console(file=stream, width=min(_WIDTH, Console(file=stream).width))
    with bar_columns(console) as progress:
        yield Bars(progress)


class Lines:
    """One line when a stage ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, stage: str) -> None:
        """Nothing to show yet."""

    def reporter(self, stage: str) -> Reporter | None:
        return None

    def end(self, row: Row) -> None:
        self.say(summary(row))

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Bars:
    """One bar per stage: rows, rate, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def begin(self, stage: str) -> None:
        self._bars[stage] = self._progress.add_task(stage, total=None, unit="", note="")

    def reporter(self, stage: str) -> Reporter | None:
        return _Bar(self._progress, self._bars[stage])

    def end(self, row: Row) -> None:
        bar = self._bars[row.stage]
        finished = row.state in ("ran", "cached")
        if finished:
            self._progress.reset(bar, total=row.read or 1, completed=row.read or 1)
        self._progress.update(bar, unit="rows", note=f"{row.state}, {row.seconds or 0:.1f} s")
        self._progress.stop_task(bar)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)


class _Bar:
    def __init__(self, progress: Progress, bar: TaskID) -> None:
        self._progress = progress
        self._bar = bar

    def phase(self, total: int | None, unit: str, done: int) -> AbstractContextManager[Callable[[int], None]]:
        self._progress.reset(self._bar, total=total, completed=done, unit=unit)
        return nullcontext(lambda units: self._progress.advance(self._bar, units))


class _Rate(ProgressColumn):
    """Units per second and the time left; for a stage that ended, how."""

    def render(self, task: Task) -> Text:
        note = str(task.fields.get("note", ""))
        if note or not task.speed:
            return Text(note)
        rate = f"{task.speed:,.0f}" if task.speed >= 10 else f"{task.speed:.2g}"
        left = f", {_clock(task.time_remaining)} left" if task.time_remaining is not None else ""
        return Text(f"{rate} {task.fields.get('unit', '')}/s{left}")


class _Rows(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{task.completed:,.0f}" if task.completed else "")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f} {task.fields.get('unit', '')}")


def bar_columns(console: Console) -> Progress:
    return Progress(TextColumn("{task.description:<10}"), BarColumn(24), _Rows(), _Rate(), console=console)


def summary(row: Row) -> str:
    """One line that says what became of a stage's rows."""
    parts = [f"{row.stage}: {row.state}"]
    if row.read is not None:
        parts += [f"{row.read:,} rows in", f"{row.kept:,} kept"]
        if row.dropped:
            parts.append(f"{sum(row.dropped.values()):,} dropped ({dropped_by_reason(row.dropped)})")
        parts.append(f"{row.written:,} written")
    if row.seconds is not None:
        parts.append(f"{row.seconds:.1f} s")
    return ", ".join(parts)


def dropped_by_reason(dropped: dict[str, int]) -> str:
    """The reasons with their numbers, the most frequent first."""
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {number:,}" for reason, number in ordered)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
