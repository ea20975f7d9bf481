from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data.progress import progress, reporting_to


class Listener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    @contextmanager
    def phase(self, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
        self.heard.append((total, unit, done))
        yield self.heard.append
        self.heard.append("end")


def test_reporter_hears_phases_and_steps() -> None:
    listener = Listener()
    with reporting_to(listener):
        with progress(10, "images", done=4) as advance:
            advance(5)
            advance(1)
        with progress(None):
            pass
    assert listener.heard == [(10, "images", 4), 5, 1, "end", (None, "rows", 0), "end"]


def test_nobody_listens_outside() -> None:
    listener = Listener()
    with reporting_to(listener):
        pass
    with progress(3) as advance:
        advance(3)
    assert listener.heard == []
