"""Rows of the recipes that write about one image at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data.artifact import Artifact
from data.keys import digest
from data.schemas import IMAGES
from tasks.rows import BATCH, read_rows


@dataclass(frozen=True, slots=True)
class Single:
    """An image to write about.

    Attributes:
        source: a stable id, 32 hexadecimal digits: the same image has it in every pool, and another in every recipe.
        image_id: as in the table of images.
        caption: that came with it; None if none did, or a blank one.
    """

    source: str
    image_id: str
    caption: str | None


def singles(images: Artifact, recipe: str) -> Iterator[Single]:
    """All images, ordered by `source`."""
    table = _read(images)
    sources = pa.array([digest([recipe, image_id])[:32] for image_id in _each(table["image_id"])], pa.string())
    order = pc.sort_indices(sources)
    for start in range(0, len(order), BATCH):
        here = order.slice(start, BATCH)
        rows = table.take(here).to_pylist()
        for source, row in zip(sources.take(here).to_pylist(), rows, strict=True):
            yield Single(source, row["image_id"], _caption(row["caption"]))


def image_ids(images: Artifact) -> pa.Array:
    """Ids of all images, ascending."""
    return _read(images)["image_id"].combine_chunks()


def uncaptioned_ids(images: Artifact) -> tuple[int, pa.Array]:
    """The number of images, and the ids of those without a caption, ascending."""
    table = _read(images)
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(table["caption"])), 0)
    without = pc.fill_null(blank, True)
    return table.num_rows, table["image_id"].filter(without).combine_chunks()


def _read(images: Artifact) -> pa.Table:
    batches = read_rows(images.file("images.parquet"), IMAGES, ["image_id", "caption"])
    schema = pa.schema([IMAGES.field("image_id"), IMAGES.field("caption")])
    return pa.Table.from_batches(batches, schema)


def _each(column: pa.ChunkedArray) -> Iterator[str]:
    return (value.as_py() for value in column)


def _caption(text: str | None) -> str | None:
    """A caption on one line; None for a blank one."""
    return " ".join((text or "").split()) or None
