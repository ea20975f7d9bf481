"""Export: triplets as a data set that leaves the store, for Hugging Face `datasets`."""

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.artifact import Artifact, write_json
from data.places import place_of, read_bytes
from data.schemas import IMAGES, TRIPLETS
from tasks.card import IMAGE, Exported, ExportOptions, Part, card, facts_of, features_of
from tasks.lineage import ancestor_with, lineage
from tasks.rows import read_rows

MARK = "cirque.json"
"""The file by which an earlier export is recognised."""
_GROUP = 100  # rows of a row group, as the hub's viewer likes them where there are images
_ROLES = {"reference_image": "reference_id", "target_image": "target_id"}


class Files:
    """The ingested images as files, by id."""

    def __init__(self, images: Artifact) -> None:
        """Read the table; memory holds ids and places, no picture."""
        self._images = images
        table = images.read(IMAGES, "images.parquet").select(["image_id", "uri"])
        self._uris: dict[str, str] = dict(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))

    def path(self, image_id: str) -> Path | None:
        """The image's own file on this machine, None if it has none but lies in a tar; KeyError for an unknown one."""
        place = place_of(self._uris[image_id], self._images.path)
        return place.absolute() if isinstance(place, Path) else None

    def bytes(self, image_id: str) -> bytes:
        """An image as it was found; raises KeyError and OSError."""
        return read_bytes(place_of(self._uris[image_id], self._images.path))

    def suffix(self, image_id: str) -> str:
        """The suffix of its own file, or of its format; raises KeyError and OSError."""
        path = self.path(image_id)
        if path is not None:
            return path.suffix
        with Image.open(BytesIO(self.bytes(image_id))) as image:
            return f".{(image.format or 'img').lower()}"

    def name(self, image_id: str) -> str:
        """A file name for it: its own, or one of its id; raises KeyError and OSError."""
        path = self.path(image_id)
        return path.name if path is not None else f"{image_id.replace('/', '_')}{self.suffix(image_id)}"


def export_dataset(triplets: Artifact, to: Path, options: ExportOptions, force: bool = False) -> Exported:
    """Write a data set that `datasets.load_dataset(to)` opens; memory does not grow with the number of triplets.

    The configuration `triplets` has the columns of the triplets, and the images of reference and target as `Image`.
    If triplets name hard negatives, a second configuration `negatives` has each of these images once.

    Args:
        triplets: a sealed artifact with triplets.parquet, whose images are in the store.
        to: a folder that does not exist; an earlier export is replaced if `force`.
        options: what goes in.
        force: replace an earlier export.

    Raises:
        FileExistsError: if there is something at `to` that is not to be replaced.
        LookupError: if the images are not in the store any more.
        OSError: if an image cannot be read and that is not allowed.
    """
    files = Files(ancestor_with(triplets, "images.parquet"))
    done = Exported()
    with new_folder(to, force) as folder:
        done.parts["triplets"] = _write(folder, "data", _schema(), _rows(triplets, files, options, done), options)
        if not done.parts["triplets"].rows:
            raise ValueError(f"no triplet is left to export; left out: {dict(done.dropped) or 'none'}")
        negatives = negative_ids(triplets)
        if negatives:
            rows = _negatives(negatives, files, options, done)
            done.parts["negatives"] = _write(folder, "negatives", _negative_schema(), rows, options)
        facts = facts_of(lineage(triplets))
        write_json(folder / MARK, facts)
        (folder / "README.md").write_text(card(facts, done, options), encoding="utf-8")
    return done


@contextmanager
def new_folder(to: Path, force: bool) -> Iterator[Path]:
    """A folder to fill, which becomes `to` when the block ends, and is removed if it raises.

    `to` may be a link to a folder, or the working directory. A folder that is there stays the same folder and gets the
    contents.

    Raises:
        FileExistsError: if `to` is there and is neither empty nor, with `force`, an earlier export.
    """
    place = Path(os.path.realpath(to))
    if place.is_symlink() or (place.exists() and not place.is_dir()):  # a link in a circle is a link still
        raise FileExistsError(f"{to} is {_kind(place)}; want a folder that is empty or missing: choose another place")
    if place.is_dir() and any(place.iterdir()) and not (force and _is_export(place)):
        hint = "--force replaces only what an export wrote" if force else "choose another folder, or --force"
        raise FileExistsError(f"{to} is not empty; {hint}")
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
    folder.mkdir()
    try:
        yield folder
        _move(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_export(place: Path) -> bool:
    """Whether MARK there was written by an export; checkpoints have a file of that name too."""
    try:
        facts = json.loads((place / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and "stages" in facts


def _kind(place: Path) -> str:
    return "a link that leads in a circle" if place.is_symlink() else "a file"


def _move(folder: Path, place: Path) -> None:
    if not place.exists():
        folder.rename(place)
        return
    # While there is a MARK in it, the next export may replace what this one leaves when it is killed here.
    for old in sorted(place.iterdir(), key=lambda path: path.name == MARK):
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in sorted(folder.iterdir(), key=lambda path: path.name != MARK):
        shutil.move(new, place / new.name)


def missing(error: Exception, image_id: str, allowed: bool, done: Counter[str], reason: str) -> None:
    """Count an image that cannot be had, or stop.

    Raises:
        OSError: unless it is allowed.
    """
    if not allowed:
        raise OSError(
            f"image {image_id!r} cannot be read ({error}); bring it back, or leave its triplets out by --allow-missing"
        ) from error
    done[reason] += 1


def negative_ids(triplets: Artifact) -> list[str]:
    """The images that are a hard negative of some triplet, each once, ascending."""
    found = pa.array([], pa.string())
    for batch in read_rows(triplets.file("triplets.parquet"), TRIPLETS, ["negative_ids"]):
        found = pa.chunked_array([found, batch["negative_ids"].flatten()]).unique()
    ids: list[str] = sorted(found.to_pylist())
    return ids


def _schema() -> pa.Schema:
    """The columns of the triplets, with the pictures before the ids that name them."""
    fields = []
    for name in TRIPLETS.names:
        role = next((role for role, column in _ROLES.items() if column == name), None)
        fields += [pa.field(role, IMAGE)] if role is not None else []
        fields.append(TRIPLETS.field(name))
    return pa.schema(fields)


def _negative_schema() -> pa.Schema:
    return pa.schema([pa.field("image_id", pa.string()), pa.field("image", IMAGE)])


def _rows(triplets: Artifact, files: Files, options: ExportOptions, done: Exported) -> Iterator[dict[str, Any]]:
    for batch in read_rows(triplets.file("triplets.parquet"), TRIPLETS):
        for row in batch.to_pylist():
            images: dict[str, Any] = {}
            for role, column in _ROLES.items():
                try:
                    images[role] = None if row[column] is None else _image(row[column], files, options)
                except (KeyError, OSError) as error:
                    missing(error, row[column], options.allow_missing, done.dropped, f"{role}_missing")
                    break
            else:
                yield row | images


def _negatives(image_ids: list[str], files: Files, options: ExportOptions, done: Exported) -> Iterator[dict[str, Any]]:
    for image_id in image_ids:
        try:
            yield {"image_id": image_id, "image": _image(image_id, files, options)}
        except (KeyError, OSError) as error:
            missing(error, image_id, options.allow_missing, done.dropped, "negative_image_missing")


def _image(image_id: str, files: Files, options: ExportOptions) -> dict[str, Any]:
    path = files.path(image_id)
    if options.images == "paths" and path is not None:
        path.stat()  # OSError if it is gone
        return {"bytes": None, "path": str(path)}
    return {"bytes": files.bytes(image_id), "path": files.name(image_id)}


def _write(
    folder: Path, name: str, schema: pa.Schema, rows: Iterator[Mapping[str, Any]], options: ExportOptions
) -> Part:
    """Write rows as numbered Parquet files, a group of rows in memory at a time."""
    described = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features_of(schema).to_dict()}})})
    target = folder / name
    target.mkdir()
    shards: list[Path] = []
    total = weight = 0
    group = list(islice(rows, _GROUP))
    while group or not shards:
        shards.append(target / f"{len(shards)}.parquet")
        size = 0
        with pq.ParquetWriter(shards[-1], described, compression="zstd") as file:
            while group and size < options.shard_bytes:
                table = pa.Table.from_pylist(group, schema=described)
                file.write_table(table)
                size, total = size + table.nbytes, total + table.num_rows
                group = list(islice(rows, _GROUP))
        weight += size
    for number, shard in enumerate(shards):
        shard.rename(target / f"train-{number:05d}-of-{len(shards):05d}.parquet")
    return Part(name, schema, total, weight, sum(path.stat().st_size for path in target.iterdir()))
