"""Ingest: from a source of images to a table of those that decode whole, and a table of the rest with reasons."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pydantic import Field, PositiveInt, ValidationError, model_validator

from data.artifact import Artifact, Counts, read_table, write_table
from data.config import Resources, StageConfig
from data.images import BadImage, check, load_rgb
from data.progress import progress
from data.schemas import IMAGES, REJECTED
from data.sources import Item, Source, load_source
from tasks.stage import stage

# Images verified between two checkpoints: a kill costs at most these, and their payloads are in memory together.
PART = 256
# Files per folder of stored images.
GROUP = 1000

# One row per item, while duplicates are still to be found: an image, or the reason why it is none.
_VERIFIED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        *(pa.field(field.name, field.type) for field in IMAGES if field.name != "image_id"),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class IngestConfig(StageConfig):
    """Which images to take."""

    source: str = Field(default="tiny_world", description="a file of data/sources: tiny_world, folder")
    path: Path | None = Field(default=None, description="the folder, for source=folder")
    images: PositiveInt | None = Field(
        default=None, description="how many: drawn from a folder by seed, or made by a world"
    )
    seed: int = Field(default=0, description="of the draw, or of the world")

    @model_validator(mode="after")
    def _suits_its_source(self) -> "IngestConfig":
        try:
            _source_config(self)
        except LookupError as error:
            raise ValueError(str(error)) from error
        return self


def _source_config(config: IngestConfig) -> StageConfig:
    """The source's own configuration.

    Raises:
        LookupError: if there is no such source.
        ValueError: if it needs what is not given, or does not know what is.
    """
    kind = load_source(config.source).Config
    fields = kind.model_fields
    if config.path is not None and "path" not in fields:
        raise ValueError(f"source={config.source} reads no path, but path={config.path} is given; use source=folder")
    if config.path is None and "path" in fields and fields["path"].is_required():
        raise ValueError(f"source={config.source} needs path=..., the folder of images")
    number = "limit" if "limit" in fields else "images"
    given = {"path": config.path, number: config.images, "seed": config.seed}
    try:
        return kind.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ValueError(f"source={config.source}: {error}") from error


def open_configured(config: IngestConfig) -> Source:
    """Open the source that the configuration names; raises as the source does."""
    return load_source(config.source).open_source(_source_config(config))


def open_image(images: Artifact, uri: str) -> Image.Image:
    """Decode an image of an ingested table as `data.images.load_rgb` does, and raise as it does.

    Args:
        images: the artifact of `ingest`.
        uri: from the table's column: absolute, or relative to the artifact.
    """
    return load_rgb(images.path / uri)  # an absolute uri replaces the artifact's path


def listing_facts(config: IngestConfig) -> dict[str, Any]:
    """What the key has to know of the source: the digest of its listing, and the number of its items if known."""
    source = open_configured(config)
    facts: dict[str, Any] = {"listing": source.listing()}
    if isinstance(source, Sized):
        facts["items"] = len(source)
    return facts


@stage(version=1, facts=listing_facts)
def ingest(
    out: Path, config: IngestConfig, *, facts: Mapping[str, Any] | None = None, resources: Resources | None = None
) -> Counts:
    """Decode every image of the source; write images.parquet and rejected.parquet, sorted by id.

    Images that are no files are stored below images/. An interrupted run continues after its last whole part.

    Args:
        facts: what `listing_facts` gave when the work was decided on; taken now if left out.

    Raises:
        OSError, ValueError: if the source cannot be read or holds no usable image.
        RuntimeError: if the source changed while it was read.
    """
    facts = listing_facts(config) if facts is None else facts
    source = open_configured(config)
    parts = out / "parts"
    workers = resources.workers if resources is not None else os.cpu_count() or 1
    written = _verify_parts(source, out, parts, facts, workers)
    if source.listing() != facts["listing"]:
        raise RuntimeError(
            f"the images of source={config.source} changed while they were read; run again when nothing writes there"
        )
    images, rejected = _merge(written)
    dropped = dict(sorted(Counter(rejected["reason"].to_pylist()).items()))
    if not images.num_rows:
        raise ValueError(_nothing_usable(config, rejected))
    write_table(out / "images.parquet", images, IMAGES)
    write_table(out / "rejected.parquet", rejected, REJECTED)
    shutil.rmtree(parts)
    labels = images["label"].drop_null()
    return Counts(
        read=images.num_rows + rejected.num_rows,
        kept=images.num_rows,
        dropped=dropped,
        written=images.num_rows,
        detail={"labelled": len(labels), "classes": len(labels.unique())},
    )


def _verify_parts(source: Source, out: Path, parts: Path, facts: Mapping[str, Any], workers: int) -> list[Path]:
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
                _refuse_repeats(batch)  # two threads would write one file
                rows = []
                places = range(len(paths) * PART, len(paths) * PART + len(batch))
                for row in pool.map(partial(_verify, out), batch, places):
                    rows.append(row)
                    advance(1)
                write_table(path, pa.Table.from_pylist(rows, schema=_VERIFIED), _VERIFIED)
            paths.append(path)
    return paths


def _holds(part: Path, batch: list[Item]) -> bool:
    """Whether an earlier run finished this part, and from the same items."""
    if not part.exists():
        return False
    return bool(read_table(part, _VERIFIED)["image_id"].to_pylist() == [item.image_id for item in batch])


def _verify(out: Path, item: Item, place: int) -> dict[str, Any]:
    """A row of `_VERIFIED`; an image that is no file is stored below `out`, in the folder of its place."""
    row: dict[str, Any] = {"image_id": item.image_id}
    if item.refused is not None:
        reason, detail = item.refused
        return row | {"reason": reason, "detail": detail}
    content = item.location if item.payload is None else item.payload
    if content is None:
        raise ValueError(f"the source gave neither a file nor bytes for image {item.image_id!r}")
    try:
        found = check(content)
    except BadImage as error:
        return row | {"reason": error.reason, "detail": error.detail}
    if isinstance(content, Path):
        uri = str(content)
    else:
        uri = f"images/{place // GROUP:05d}/{_file_name(item.image_id)}{found.suffix}"
        _store(out / uri, content)
    known = {"label": item.label, "caption": item.caption}
    return row | known | {"uri": uri, "width": found.width, "height": found.height, "sha256": found.sha256}


def _file_name(image_id: str) -> str:
    """The id where it is a plain file name, else a digest of it."""
    return image_id if _PLAIN_NAME.fullmatch(image_id) else sha256(image_id.encode()).hexdigest()[:32]


def _refuse_repeats(batch: list[Item]) -> None:
    ids = [item.image_id for item in batch if item.refused is None]
    for before, after in pairwise(ids):
        if after <= before:
            raise ValueError(f"the source gave image {after!r} after {before!r}; ids must rise")


def _store(path: Path, content: bytes) -> None:
    """Write a file whole; always by the same temporary name, so that a killed run leaves none behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _merge(parts: list[Path]) -> tuple[pa.Table, pa.Table]:
    """The tables of images and of rejected items; of images with the same bytes the first by id is kept.

    Raises:
        ValueError: if the source's ids are not in order, or one occurs twice.
    """
    first: dict[str, str] = {}
    kept, rejected = [IMAGES.empty_table()], [REJECTED.empty_table()]
    last = ""
    for part in parts:
        table = read_table(part, _VERIFIED)
        refused = []
        is_kept = []
        for row in table.select(["image_id", "sha256", "reason", "detail"]).to_pylist():
            image_id, reason, detail = row["image_id"], row["reason"], row["detail"]
            if reason is None:
                if image_id <= last:
                    raise ValueError(f"the source gave image {image_id!r} after {last!r}; ids must rise")
                last = image_id
                original = first.setdefault(row["sha256"], image_id)
                if original != image_id:
                    reason, detail = "duplicate", f"the same bytes as {original}"
            is_kept.append(reason is None)
            if reason is not None:
                refused.append({"row_id": image_id, "stage": "ingest", "reason": reason, "detail": detail})
        kept.append(table.filter(pa.array(is_kept, pa.bool_())).select(IMAGES.names).cast(IMAGES))
        rejected.append(pa.Table.from_pylist(refused, schema=REJECTED))
    return pa.concat_tables(kept), pa.concat_tables(rejected).sort_by("row_id")


def _nothing_usable(config: IngestConfig, rejected: pa.Table) -> str:
    where = config.path or config.source
    reasons = "; ".join(
        f"{count} {reason} (such as {example['row_id']}: {example['detail']})"
        for reason, count in sorted(Counter(rejected["reason"].to_pylist()).items())
        for example in rejected.filter(pc.equal(rejected["reason"], reason)).slice(0, 1).to_pylist()
    )
    return f"none of the {rejected.num_rows} files in {where} is a usable image: {reasons}"
