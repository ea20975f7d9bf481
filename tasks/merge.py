"""Merging verified parts into the tables of images and of rejected items; equal images are found on the way."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.artifact import read_table, write_table
from data.schemas import IMAGES, REJECTED
from tasks.repeats import Fates, Repeats
from tasks.rows import row_writer
from tasks.verify import VERIFIED


@dataclass
class Merged:
    """What all parts came to."""

    kept: int = 0
    labelled: int = 0
    classes: set[str] = field(default_factory=set)
    mended: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """By reason, one dropped item."""


def merge(parts: list[Path], out: Path, most: int | None) -> Merged:
    """Write the tables of images and of rejected items; of images with the same bytes the first by id is kept.

    Args:
        parts: tables of `VERIFIED`, in order.
        out: where the tables go.
        most: images with the same bytes as so many others are all rejected.

    Raises:
        ValueError: if the source's ids are not in order, or one occurs twice.
    """
    fates = _fates(parts, out / "digests", most)
    result = Merged()
    originals: dict[int, str] = {}
    ordered, last = True, ""
    kept, dropped = row_writer(out / "images.parquet", IMAGES), row_writer(out / "rejected.parquet", REJECTED)
    with kept as images, dropped as rejected:
        for place, row in enumerate(_rows(parts)):
            image_id, reason, detail = row["image_id"], row["reason"], row["detail"]
            fate = fates.of(place)
            if place in fates.originals:
                originals[place] = image_id
            if fate is not None:
                reason, detail = _fate(*fate, originals)
            if reason is None:
                result.kept += 1
                result.mended.update(row["mended"])
                if row["label"] is not None:
                    result.labelled += 1
                    result.classes.add(row["label"])
                images.add({name: row[name] for name in IMAGES.names})
                continue
            ordered, last = ordered and last <= image_id, image_id
            result.dropped[reason] += 1
            result.examples.setdefault(reason, f"{image_id}: {detail}")
            rejected.add({"row_id": image_id, "stage": "ingest", "reason": reason, "detail": detail})
    if not ordered:  # names that are no UTF-8, and ids that were asked for and are not there
        table = read_table(out / "rejected.parquet", REJECTED)
        write_table(out / "rejected.parquet", table.sort_by("row_id"), REJECTED)
    return result


def _fates(parts: list[Path], folder: Path, most: int | None) -> Fates:
    repeats = Repeats(folder)
    first, last = 0, ""
    for part in parts:
        table = read_table(part, VERIFIED).select(["image_id", "sha256", "reason", "repeats"])
        rows = [(first + at, *row.values()) for at, row in enumerate(table.to_pylist()) if row["reason"] is None]
        for _, image_id, *_ in rows:
            if image_id <= last:
                raise ValueError(f"the source gave image {image_id!r} after {last!r}; ids must rise")
            last = image_id
        compared = [(place, digest) for place, _, digest, _, again in rows if not again]
        repeats.add([digest for _, digest in compared], [place for place, _ in compared])
        first += table.num_rows
    return repeats.find(most)


def _rows(parts: list[Path]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield from read_table(part, VERIFIED).to_pylist()


def _fate(original: int, count: int, originals: Mapping[int, str]) -> tuple[str, str]:
    if count:
        return "placeholder", f"the same bytes as {count - 1} others, as of a picture that says 'not available'"
    return "duplicate", f"the same bytes as {originals[original]}"
