"""Images that occur more than once: found by their digests, which are on disk while they are gathered."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

_RECORD = np.dtype([("digest", "S16"), ("row", "<i8")])
_BUCKETS = 64


class Repeats:
    """Rows with equal digests, of any number of rows.

    Digests are gathered in files by their first bits and compared one file at a time: in memory are a 64th of them, and
    the rows that repeat another.
    """

    def __init__(self, folder: Path) -> None:
        """Gather in `folder`, which is emptied first and removed by `find`."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder

    def add(self, digests: Sequence[str], rows: Iterable[int]) -> None:
        """Take rows by number, with digests of 64 hexadecimal digits; numbers rise from call to call."""
        records = np.empty(len(digests), dtype=_RECORD)
        # The first 16 of 32 bytes: two of 10^9 images agree in them by chance once in 10^20 cases.
        raw = np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, 32)
        records["digest"] = np.ascontiguousarray(raw[:, :16]).view("S16").ravel()
        records["row"] = np.fromiter(rows, dtype=np.int64, count=len(digests))
        buckets = raw[:, 0] // (256 // _BUCKETS)
        for bucket in np.unique(buckets):
            with (self._folder / f"{bucket:02d}").open("ab") as stream:
                stream.write(records[buckets == bucket].tobytes())

    def find(self, most: int | None) -> "Fates":
        """What becomes of the rows.

        Args:
            most: rows whose digest occurs more often than this are all placeholders; None: there are no such.
        """
        found = [_compare(np.fromfile(path, dtype=_RECORD), most) for path in sorted(self._folder.iterdir())]
        shutil.rmtree(self._folder)
        rows = np.concatenate(found) if found else np.empty((0, 3), dtype=np.int64)
        return Fates(rows[np.argsort(rows[:, 0])])


class Fates:
    """For each row that repeats another: which is the first of its kind, and how many there are."""

    def __init__(self, rows: npt.NDArray[np.int64]) -> None:
        """Take (N, 3) numbers: row, first row, size of the group or 0 if that is allowed; ordered by row."""
        self._rows = rows
        self.originals = frozenset(rows[rows[:, 2] == 0, 1].tolist())

    def of(self, row: int) -> tuple[int, int] | None:
        """Its first row, and how often a placeholder occurs (0: it is just a duplicate); None if it is to be kept."""
        at = int(np.searchsorted(self._rows[:, 0], row))
        if at == len(self._rows) or self._rows[at, 0] != row:
            return None
        return int(self._rows[at, 1]), int(self._rows[at, 2])


def _compare(records: npt.NDArray[np.void], most: int | None) -> npt.NDArray[np.int64]:
    """The (N, 3) rows of `Fates` of one file."""
    order = np.argsort(records["digest"], kind="stable")  # equal ones stay in the order of their rows
    digests, rows = records["digest"][order], records["row"][order].astype(np.int64)
    starts = np.flatnonzero(np.r_[True, digests[1:] != digests[:-1]])
    sizes = np.diff(np.r_[starts, len(rows)])
    size, start = np.repeat(sizes, sizes), np.repeat(starts, sizes)
    placeholder = size > most if most is not None else np.zeros(len(rows), dtype=bool)
    fated = placeholder | (np.arange(len(rows)) != start)
    return np.stack([rows[fated], rows[start][fated], np.where(placeholder, size, 0)[fated]], axis=1)
