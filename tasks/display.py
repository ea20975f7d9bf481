"""What a run shows while it works: a bar per stage on a terminal, else plain lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Lock
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
    """One line when a stage ends, and one a minute while it works."""

    def __init__(self, stream: TextIO, every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._every = every
        self._clock = clock

    def begin(self, stage: str) -> None:
        """Nothing to show yet."""

    def reporter(self, stage: str) -> Reporter | None:
        return _Minutes(self, stage, self._every, self._clock)

    def end(self, row: Row) -> None:
        self.say(summary(row))

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Held:
    """Keeps what it is told, for another display to show if it is wanted."""

    def __init__(self) -> None:
        self._told: list[Callable[[Display], None]] = []

    def begin(self, stage: str) -> None:
        self._told.append(lambda display: display.begin(stage))

    def reporter(self, stage: str) -> Reporter | None:
        """None: nothing here takes long."""
        return None

    def end(self, row: Row) -> None:
        self._told.append(lambda display: display.end(row))

    def say(self, text: str) -> None:
        self._told.append(lambda display: display.say(text))

    def tell(self, display: Display) -> None:
        """Tell another display everything, in order."""
        for one in self._told:
            one(display)


class _Minutes:
    def __init__(self, lines: Lines, stage: str, every: float, clock: Callable[[], float]) -> None:
        self._lines, self._stage, self._every, self._clock = lines, stage, every, clock
        self._lock = Lock()

    def phase(self, total: int | None, unit: str, done: int) -> AbstractContextManager[Callable[[int], None]]:
        began = said = self._clock()
        completed = done

        def advance(units: int) -> None:
            nonlocal completed, said
            with self._lock:
                completed += units
                now = self._clock()
                if now - said < self._every:
                    return
                said = now
                speed = (completed - done) / (now - began)
            left = (total - completed) / speed if total is not None and speed else None
            self._lines.say(f"{self._stage}: {work_done(completed, total, unit, speed, left)}")

        return nullcontext(advance)


class Bars:
    """One bar per stage: rows, rate, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def begin(self, stage: str) -> None:
        self._bars[stage] = self._progress.add_task(stage, total=None, unit="", note="")

    def reporter(self, stage: str) -> Reporter | None:
        return _Phases(self, stage)

    def phase(self, stage: str, total: int | None, unit: str, done: int) -> TaskID:
        """Give a stage's bar a new scale; a new bar, because the old one's speed is of the old phase."""
        self._progress.remove_task(self._bars[stage])
        self._bars[stage] = self._progress.add_task(stage, total=total, completed=done, unit=unit, note="")
        return self._bars[stage]

    def advance(self, bar: TaskID, units: int) -> None:
        with suppress(KeyError):  # a thread of the phase before, reporting late
            self._progress.advance(bar, units)

    def end(self, row: Row) -> None:
        bar = self._bars[row.stage]
        if row.state in ("ran", "cached"):
            bar = self.phase(row.stage, total=1, unit="", done=1)
        rows = f"{row.read:,} rows, " if row.read is not None else ""
        self._progress.update(bar, note=f"{row.state}, {rows}{row.seconds or 0:.1f} s")
        self._progress.stop_task(bar)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)


class _Phases:
    def __init__(self, bars: Bars, stage: str) -> None:
        self._bars = bars
        self._stage = stage

    def phase(self, total: int | None, unit: str, done: int) -> AbstractContextManager[Callable[[int], None]]:
        bar = self._bars.phase(self._stage, total, unit, done)
        return nullcontext(lambda units: self._bars.advance(bar, units))


class _Work(ProgressColumn):
    """Units done, units per second and the time left; for a stage that ended, how."""

    def render(self, task: Task) -> Text:
        if task.fields["note"]:
            return Text(str(task.fields["note"]))
        return Text(work_done(task.completed, task.total, task.fields["unit"], task.speed, task.time_remaining))


def work_done(completed: float, total: float | None, unit: str, speed: float | None, left: float | None) -> str:
    """Units done (of `total`, where known), units per second and the seconds left, as far as they are known."""
    of = "" if total is None else f"/{total:,.0f}"
    parts = [f"{completed:,.0f}{of} {unit}"] if unit else []
    if speed:
        parts.append(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s")
    if left is not None:
        parts.append(f"{_clock(left)} left")
    return ", ".join(parts)


def bar_columns(console: Console) -> Progress:
    return Progress(TextColumn("{task.description:<10}"), BarColumn(24), _Work(), console=console)


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


def dropped_by_reason(dropped: dict[str, int], between: str = ", ") -> str:
    """The reasons with their numbers, the most frequent first."""
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return between.join(f"{reason} {number:,}" for reason, number in ordered)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
