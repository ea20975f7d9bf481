"""Progress of the work in hand, reported to whoever installed a reporter; to nobody otherwise."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol


class Reporter(Protocol):
    """Receives the phases of one stage."""

    def phase(self, total: int | None, unit: str, done: int) -> AbstractContextManager[Callable[[int], None]]:
        """Open a phase of `total` units (None: unknown), `done` of which were finished earlier."""
        ...


_reporter: ContextVar[Reporter | None] = ContextVar("cirque_progress", default=None)


@contextmanager
def progress(total: int | None, unit: str = "rows", done: int = 0) -> Iterator[Callable[[int], None]]:
    """Report a phase of work: ``with progress(len(rows)) as advance: ... advance(1)``.

    Outside a stage it does nothing. `advance` may be called from any thread.

    Args:
        total: units in all, those already done included; None where it is not known.
        unit: what is counted, a plural noun.
        done: units that an earlier, interrupted run finished; they do not count for the rate.
    """
    reporter = _reporter.get()
    if reporter is None:
        yield _ignore
        return
    with reporter.phase(total, unit, done) as advance:
        yield advance


@contextmanager
def reporting_to(reporter: Reporter | None) -> Iterator[None]:
    """Send the progress of the enclosed work to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def _ignore(units: int) -> None:
    """Nobody listens."""
