"""Verifying a source's images in parts: each decoded whole, and stored where it has no place of its own."""

import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.artifact import read_table, write_atomically, write_table
from data.images import BadImage, check
from data.mending import mended
from data.places import Place, Span, read_bytes, uri_of
from data.progress import progress
from data.schemas import IMAGES
from data.sources import Item, Source

# Images verified between two checkpoints: a kill costs at most these, and their payloads are in memory together.
PART = 256

# One row per item, while duplicates are still to be found: an image, or the reason why it is none.
VERIFIED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        *(pa.field(column.name, column.type) for column in IMAGES if column.name != "image_id"),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("mended", pa.list_(pa.field("element", pa.string()))),
        pa.field("repeats", pa.bool_()),
    ]
)


def verify_parts(source: Source, out: Path, parts: Path, facts: Mapping[str, Any], workers: int) -> list[Path]:
    """Write a table of verified rows for every `PART` items, unless an earlier run did; their paths, in order."""
    total = facts.get("items")
    finished = sum(1 for _ in parts.glob("*.parquet")) * PART
    done = finished if total is None else min(finished, total)
    items = source.items()
    paths: list[Path] = []
    with progress(total, "images", done) as advance, ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(items, PART)):
            path = parts / f"{len(paths):07d}.parquet"
            if not _holds(path, batch):
                _refuse_repeats(batch)
                rows = []
                with _Pack(out, Path("images") / f"{len(paths):07d}.tar") as pack:
                    for found in pool.map(_verify, batch):
                        rows.append(found.row if found.stored is None else pack.add(found))
                        advance(1)
                write_table(path, pa.Table.from_pylist(rows, schema=VERIFIED), VERIFIED)
            paths.append(path)
    return paths


def _holds(part: Path, batch: list[Item]) -> bool:
    """Whether an earlier run finished this part, and from the same items."""
    if not part.exists():
        return False
    return bool(read_table(part, VERIFIED)["image_id"].to_pylist() == [item.image_id for item in batch])


@dataclass(frozen=True)
class _Found:
    """A row of `VERIFIED`, and the bytes that the artifact has to carry, with the suffix of their format."""

    row: dict[str, Any]
    stored: bytes | None = None
    suffix: str = ""


def _verify(item: Item) -> _Found:
    row: dict[str, Any] = {"image_id": item.image_id}
    if item.refused is not None:
        reason, detail = item.refused
        return _Found(row | {"reason": reason, "detail": detail})
    content = item.location if item.payload is None else item.payload
    if content is None:
        raise ValueError(f"the source gave neither a file nor bytes for image {item.image_id!r}")
    done: tuple[str, ...] = ()
    try:
        if item.mend is not None:
            content, done = _mend(item, content)
        found = check(content)
    except BadImage as error:
        return _Found(row | {"reason": error.reason, "detail": error.detail})
    original = item.sha256 or found.sha256
    row |= {"label": item.label, "caption": item.caption, "foil": item.foil, "url": item.url, "repeats": item.repeats}
    row |= {"width": found.width, "height": found.height, "sha256": original, "mended": list(done)}
    row |= {"stored_sha256": found.sha256 if found.sha256 != original else None}
    if isinstance(content, bytes):
        return _Found(row, content, found.suffix)
    return _Found(row | {"uri": uri_of(content)})


def _mend(item: Item, content: Place | bytes) -> tuple[Place | bytes, tuple[str, ...]]:
    """The mended bytes, or what was given where there is nothing to mend: such as the original's own bytes."""
    assert item.mend is not None
    try:
        found = content if isinstance(content, bytes) else read_bytes(content)
    except OSError as error:
        raise BadImage("unreadable", error.strerror or str(error)) from error
    if sha256(found).hexdigest() == item.sha256:
        return content, ()
    better, done = mended(found, item.mend)
    return (better, done) if done else (content, ())


class _Pack:
    """A tar of stored images in `out`, written when the block ends; without images there is none."""

    def __init__(self, out: Path, name: Path) -> None:
        self._out, self._name = out, name
        self._stream = BytesIO()
        self._tar = tarfile.open(fileobj=self._stream, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._rows = 0

    def add(self, found: _Found) -> dict[str, Any]:
        """Take an image; its row with its place."""
        assert found.stored is not None
        # A name of digits: ids may hold anything. The table says which is which.
        member = tarfile.TarInfo(f"{self._rows:05d}{found.suffix}")
        member.size = len(found.stored)
        self._tar.addfile(member, BytesIO(found.stored))
        self._rows += 1
        padded = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return found.row | {"uri": uri_of(Span(self._name, self._tar.offset - padded, member.size))}

    def __enter__(self) -> "_Pack":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._tar.close()
        if kind is None and self._rows:
            write_atomically(self._out / self._name, lambda place: place.write_bytes(self._stream.getbuffer()))


def _refuse_repeats(batch: list[Item]) -> None:
    ids = [item.image_id for item in batch if item.refused is None]
    for before, after in pairwise(ids):
        if after <= before:
            raise ValueError(f"the source gave image {after!r} after {before!r}; ids must rise")
