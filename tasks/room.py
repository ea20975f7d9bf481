"""Whether there is room for what a stage is about to write, asked before hours of work and not after."""

import shutil
from pathlib import Path


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


def spelt(size: float) -> str:
    """Bytes in words: "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
