"""Locks that end with their process, however it ends."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.2

_guard = threading.Lock()
_held: dict[Path, int] = {}  # file descriptor of every lock this process holds


@contextmanager
def hold(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the exclusive lock on `path`, waiting for it as long as it takes.

    A POSIX record lock, not `flock`: a forked child that outlives its killed parent would keep the latter. Record
    locks do not exclude threads of one process from each other; the table of held locks does.

    Args:
        path: the lock's file; it is created, and left where it is.
        waiting: called once, with the holder's process id in words, if somebody else holds the lock.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    said = False
    while not _take(path):
        if not said:
            waiting(_holder(path))
            said = True
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        with _guard:
            os.close(_held.pop(path))


def is_held(path: Path) -> bool:
    """Whether a living process, this one included, holds the lock on `path`."""
    path = path.absolute()
    with _guard:
        if path in _held:
            return True  # opening and closing the file here would drop our own lock
        if not path.exists():
            return False
        handle = _try(path)
        if handle is None:
            return True
        os.close(handle)
        return False


def _take(path: Path) -> bool:
    with _guard:
        if path in _held:
            return False
        handle = _try(path)
        if handle is None:
            return False
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        _held[path] = handle
        return True


def _try(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _holder(path: Path) -> str:
    with _guard:
        if path in _held:
            return "another thread of this process"
        pid = path.read_text(encoding="ascii", errors="replace").strip()
    return f"process {pid}" if pid.isdigit() else "another process"
