"""Ingest: from a source of images to a table of those that decode whole, and a table of the rest with reasons."""

import os
import shutil
from collections.abc import Mapping
from operator import length_hint
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, ValidationError, model_validator

from data.artifact import Artifact, Counts
from data.config import Resources, StageConfig
from data.images import load_rgb
from data.places import place_of
from data.sources import Described, Source, load_source
from tasks.merge import Merged, merge
from tasks.stage import stage
from tasks.verify import verify_parts

# A picture that was downloaded from more addresses than this is a host's "not available" picture.
PLACEHOLDERS = 10


class IngestConfig(StageConfig):
    """Which images to take. A source refuses a setting that it does not have."""

    source: str = Field(default="tiny_world", description="a file of data/sources: folder, webdataset, hf_parquet, ...")
    path: Path | None = Field(default=None, description="the folder or file to read")
    images: PositiveInt | None = Field(
        default=None, description="how many: drawn by seed, or the first by id, or made by a world"
    )
    seed: int = Field(default=0, description="of the draw, or of the world")
    draw: Literal["seeded", "first"] | None = Field(
        default=None, description="how `images` are chosen; default: seeded"
    )
    classes: tuple[str, ...] = Field(default=(), description="only images of these classes; of ImageNet: wnids")
    ids: Path | None = Field(default=None, description="only the image ids in this file, one per line")
    split: str | None = Field(default=None, description="train, validation, test, where a source has several")
    files: Path | None = Field(default=None, description="folder of the image files, where a list names them")
    trim: bool | None = Field(default=None, description="cut off the white bars of img2dataset's resize mode border")
    placeholders: NonNegativeInt | None = Field(
        default=None,
        description=f"a picture found more often than this is dropped altogether; 0: never; default: {PLACEHOLDERS} for"
        " what was downloaded by its addresses, else never",
    )

    @model_validator(mode="after")
    def _suits_its_source(self) -> "IngestConfig":
        try:
            _source_config(self)
        except LookupError as error:
            raise ValueError(str(error)) from error
        return self


_OF_SOURCES = ("path", "images", "seed", "draw", "classes", "ids", "split", "files", "trim")


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
        raise ValueError(f"source={config.source} needs path=..., {fields['path'].description}")
    given = {name: value for name in _OF_SOURCES if (value := getattr(config, name)) not in (None, ())}
    for name in given.keys() - fields.keys() - {"images"}:
        raise ValueError(f"source={config.source} has no setting {name!r}, but {name}={given[name]} is given")
    if "images" in given and "limit" in fields:
        given["limit"] = given.pop("images")
    try:
        return kind.model_validate(given)
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
    return load_rgb(place_of(uri, images.path))


def listing_facts(config: IngestConfig) -> dict[str, Any]:
    """What the key has to know of the source.

    Returns:
        `listing`, the digest of what there is; `items`, how many if that is known; `placeholders`, how often a picture
        may occur, where that is limited.
    """
    source = open_configured(config)
    facts: dict[str, Any] = {"listing": source.listing()}
    if (items := length_hint(source, -1)) >= 0:
        facts["items"] = items
    downloaded = getattr(load_source(config.source), "DOWNLOADED", False)
    most = config.placeholders if config.placeholders is not None else PLACEHOLDERS * downloaded
    return facts | ({"placeholders": most} if most else {})


@stage(version=2, facts=listing_facts)
def ingest(
    out: Path, config: IngestConfig, *, facts: Mapping[str, Any] | None = None, resources: Resources | None = None
) -> Counts:
    """Decode every image of the source; write images.parquet and rejected.parquet, sorted by id.

    Images stay where they are, in files or in tars. What has no place of its own, or had to be mended, is stored in
    tars below images/. An interrupted run continues after its last whole part; memory does not grow with the source.

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
    written = verify_parts(source, out, parts, facts, workers)
    if source.listing() != facts["listing"]:
        raise RuntimeError(
            f"the images of source={config.source} changed while they were read; run again when nothing writes there"
        )
    result = merge(written, out, facts.get("placeholders"))
    if not result.kept:
        raise ValueError(_nothing_usable(config, result))
    shutil.rmtree(parts)
    detail: dict[str, JsonValue] = {"labelled": result.labelled, "classes": len(result.classes)}
    detail |= dict(sorted(result.mended.items()))
    if isinstance(source, Described):
        detail |= source.figures()
    return Counts(
        read=result.kept + result.dropped.total(),
        kept=result.kept,
        dropped=dict(sorted(result.dropped.items())),
        written=result.kept,
        detail=detail,
    )


def _nothing_usable(config: IngestConfig, result: Merged) -> str:
    where = config.path or config.source
    reasons = "; ".join(
        f"{count} {reason} (such as {result.examples[reason]})" for reason, count in sorted(result.dropped.items())
    )
    return f"none of the {result.dropped.total()} files in {where} is a usable image: {reasons}"
