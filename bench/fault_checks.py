"""What must hold of a store after any fault, and which rows differ between two finished runs."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data.artifact import Counts, read_manifest
from tasks.runs import RunRecord
from tasks.upkeep import damage, holdings, loose_faults

# Of the hour and the machine, not of the data.
_VOLATILE = ("seconds", "time", "created")
_DIGITS = 3


@dataclass
class Difference:
    """Rows that a run has lost, doubled or changed beside an undisturbed one."""

    lost: int = 0
    doubled: int = 0
    changed: int = 0

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(self.lost + other.lost, self.doubled + other.doubled, self.changed + other.changed)

    def spelt(self) -> str:
        """The word of the report: "survived", or what was lost."""
        if self == Difference():
            return "survived"
        return f"lost {self.lost} rows, doubled {self.doubled}, changed {self.changed}"


def broken_invariants(home: Path) -> list[str]:
    """What is wrong with a store between two commands; empty if nothing is.

    Every sealed artifact has the bytes that were sealed and counts that add up, no two answers are of one request, and
    no half-written file has the name of a whole one.
    """
    found = []
    for holding in holdings(home):
        if holding.kind == "store":
            found += [f"{holding.stage}/{holding.key}: {fault}" for fault in damage(holding)]
            Counts.model_validate(read_manifest(holding.folder)["counts"])  # raises if rows do not add up
    found += [f"{path}: {fault}" for path, fault in loose_faults(home)]
    for folder in {path.parent for path in (home / "ledger").rglob("*.parquet")}:
        ids = Counter(row for path in folder.glob("*.parquet") for row in _column(path, "request_id"))
        found += [f"{folder}: request {name} has {count} answers" for name, count in ids.items() if count > 1]
    return found


def difference(home: Path, run: RunRecord, other_home: Path, other: RunRecord) -> Difference:
    """Rows of all tables of the undisturbed run `run` against those of `other`, stage by stage."""
    total = Difference()
    for row, theirs in zip(run.stages, other.stages, strict=True):
        mine, folder = home / str(row.artifact), other_home / str(theirs.artifact)
        for table in sorted(path.relative_to(mine) for path in mine.rglob("*.parquet")):
            total += _compared(_rows(mine / table), _rows(folder / table))
    return total


def _compared(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Difference:
    width = _key_width(mine)
    wanted = {tuple(row.values())[:width]: row for row in mine}
    found = Counter(tuple(row.values())[:width] for row in theirs)
    changed = sum(
        1 for row in theirs if (key := tuple(row.values())[:width]) in wanted and wanted[key] != row and found[key] == 1
    )
    return Difference(
        lost=len(wanted.keys() - found.keys()),
        doubled=sum(count - 1 for count in found.values()) + len(found.keys() - wanted.keys()),
        changed=changed,
    )


def _key_width(rows: list[dict[str, Any]]) -> int:
    """How many of the leading columns it takes to tell all rows apart."""
    for width in range(1, len(rows[0]) if rows else 0):
        if len({tuple(row.values())[:width] for row in rows}) == len(rows):
            return width
    return len(rows[0]) if rows else 0


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with pq.ParquetFile(path) as file:
        table = file.read()
    names = [name for name in table.column_names if name not in _VOLATILE]
    return [{name: _steady(row[name]) for name in names} for row in table.to_pylist()]


def _steady(value: Any) -> Any:
    """A number to three digits, anything nested as text: what is compared, and may be part of a key."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, (list, dict)) else value


def _column(path: Path, name: str) -> list[Any]:
    with pq.ParquetFile(path) as file:
        values: list[Any] = file.read([name])[name].to_pylist()
    return values
