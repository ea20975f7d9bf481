"""What the report shows of single rows: a sample of triplets with thumbnails, and rejected rows by reason."""

import base64
import io
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from data.artifact import Artifact
from data.images import BadImage
from data.schemas import IMAGES, REJECTED, TRIPLETS
from tasks.ingest import open_image

QUALITY = 80
# A raw response may be as long as a model likes; its beginning tells what went wrong.
LONGEST = 600


@dataclass(frozen=True)
class Thumbnail:
    """A small picture inside the page, or why there is none."""

    image_id: str
    width: int = 0
    height: int = 0
    uri: str = ""
    """`data:` with a WebP picture; empty where the image cannot be shown."""
    problem: str = ""


@dataclass(frozen=True)
class Card:
    """One triplet as it is shown; `row` is its row of `TRIPLETS`."""

    row: Mapping[str, Any]
    reference: Thumbnail
    target: Thumbnail | None


@dataclass(frozen=True)
class Rejection:
    """Rows that were dropped for one reason, and the first of them: (row id, what was found)."""

    stage: str
    reason: str
    count: int
    examples: list[tuple[str, str]]


def cards(triplets: Artifact, images: Artifact, count: int, side: int, seed: int) -> tuple[int, list[Card]]:
    """How many triplets there are, and a seeded sample of them in the order of their ids.

    Args:
        triplets, images: the artifacts.
        count: at most so many.
        side: longest side of a thumbnail in pixels.
        seed: of the sample.
    """
    total, rows = sampled(triplets.file("triplets.parquet"), TRIPLETS, count, seed)
    wanted = {row[name] for row in rows for name in ("reference_id", "target_id") if row[name] is not None}
    pictures = thumbnails(images, wanted, side)
    return total, [
        Card(row, pictures[row["reference_id"]], None if row["target_id"] is None else pictures[row["target_id"]])
        for row in rows
    ]


def sampled(path: Path, schema: pa.Schema, count: int, seed: int) -> tuple[int, list[dict[str, Any]]]:
    """Number of rows of a Parquet file, and a seeded sample in file order; reads only the row groups it needs.

    Raises:
        ValueError: if the file has another schema.
    """
    with pq.ParquetFile(path, memory_map=True) as file:
        if not file.schema_arrow.equals(schema, check_metadata=False):
            raise ValueError(f"{path} has another schema than expected; run the stage that wrote it again")
        total = file.metadata.num_rows
        left = sorted(random.Random(seed).sample(range(total), min(count, total)))
        rows: list[dict[str, Any]] = []
        start = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            here = [place - start for place in left if start <= place < start + size]
            if here:
                rows += file.read_row_group(group).take(here).to_pylist()
            start += size
    return total, rows


def thumbnails(images: Artifact, wanted: Iterable[str], side: int) -> dict[str, Thumbnail]:
    """Thumbnails by image id; every wanted id is there."""
    table = images.read(IMAGES, "images.parquet").select(["image_id", "uri"])
    ids = sorted(set(wanted))
    found = table.filter(pc.is_in(table["image_id"], value_set=pa.array(ids, pa.string())))
    uris = dict(zip(found["image_id"].to_pylist(), found["uri"].to_pylist(), strict=True))
    return {
        image: thumbnail(images, image, uris[image], side)
        if image in uris
        else Thumbnail(image, problem="not among the ingested images")
        for image in ids
    }


def thumbnail(images: Artifact, image_id: str, uri: str, side: int) -> Thumbnail:
    """A picture of at most side x side pixels; one that vanished or broke since it was ingested gives its problem."""
    return packed(image_id, lambda: open_image(images, uri), side)


def packed(image_id: str, load: Callable[[], Image.Image], side: int) -> Thumbnail:
    """A picture of at most side x side pixels from whatever opens it, or why there is none."""
    try:
        picture = load()
    except BadImage as error:
        return Thumbnail(image_id, problem=f"the image file cannot be shown: {error.reason}")
    except OSError as error:
        return Thumbnail(image_id, problem=f"the image file cannot be read: {error.strerror or type(error).__name__}")
    picture.thumbnail((side, side))
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=QUALITY)
    data = base64.b64encode(written.getvalue()).decode("ascii")
    return Thumbnail(image_id, *picture.size, uri=f"data:image/webp;base64,{data}")


def rejections(artifact: Artifact, examples: int) -> list[Rejection]:
    """Dropped rows of a stage by reason, the most frequent first; empty for a stage that keeps no such table."""
    path = artifact.path / "rejected.parquet"
    if not path.exists():
        return []
    table = artifact.read(REJECTED, "rejected.parquet")
    counted = pc.value_counts(table["reason"]).to_pylist()
    found = []
    for entry in sorted(counted, key=lambda entry: (-entry["counts"], entry["values"])):
        rows = table.filter(pc.equal(table["reason"], entry["values"])).slice(0, examples).to_pylist()
        shown = [(row["row_id"], shortened(row["detail"])) for row in rows]
        found.append(Rejection(artifact.stage, entry["values"], entry["counts"], shown))
    return found


def shortened(text: str) -> str:
    """The beginning of a long text, and how much was left out."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"
