"""Whether there is room for what a stage is about to do, asked before hours of work and not after."""

import shutil
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def require_disk(folder: Path, size: int, what: str) -> None:
    """Refuse to begin what cannot be written to the end.

    Args:
        folder: where it is going to lie; it exists.
        size: bytes still to be written.
        what: names it in the message.

    Raises:
        OSError: with both numbers, if less than `size` is free.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{what} needs {spelt(size)}, {spelt(free)} free in {folder}; free some (`python -m flows store du`,"
            " `store gc`) or move CIRQUE_HOME to a larger disk"
        )


def require_memory(size: int, what: str, remedy: str) -> None:
    """Refuse to begin what would be killed for its memory.

    Args:
        size: bytes that it takes at least.
        what: names it in the message.
        remedy: the setting to change.

    Raises:
        MemoryError: with both numbers, if less than `size` is available; never where that cannot be known.
    """
    free = available_memory()
    if free is not None and size > free:
        raise MemoryError(f"{what} needs at least {spelt(size)} of memory, {spelt(free)} available; {remedy}")


def require_batch(rows: int, each: int, what: str, setting: str) -> None:
    """Refuse a batch that does not fit into memory, and say which does.

    Args:
        rows: how many are in hand at a time.
        each: bytes that one of them takes at least.
        what: names them in the message: "images".
        setting: that says how many there are.

    Raises:
        MemoryError: as of `require_memory`.
    """
    fit = (available_memory() or 0) // max(1, each)
    require_memory(rows * each, f"a batch of {rows:,} {what}", f"set {setting} to {fit:,} or less")


def available_memory() -> int | None:
    """Bytes that this process may still take, by the machine and by its control groups; None if nobody says."""
    return min(_machine() + list(_groups()), default=None)


def _machine() -> list[int]:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return []
    return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]


def _groups() -> Iterator[int]:
    """What each control group that this process is in leaves of its limit: a container's limit is one of these."""
    try:
        lines = _OWN_GROUPS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root) and (left := _left(group, *names)) is not None:
                yield left


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes left of a group's limit; what it holds of files that nobody reads now is given back when it is needed."""
    try:
        most, now = int((group / limit).read_text()), int((group / used).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or "max": no limit
        return None
    return max(0, most - now + int(statistics.get(cache, 0)))


def spelt(size: float) -> str:
    """Bytes in words: "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
