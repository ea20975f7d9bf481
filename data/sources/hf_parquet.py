"""A Hugging Face data set with pictures in it: Parquet files as the hub has them, or a folder of `save_to_disk`.

Ids are the numbers of the rows of the split, so that both forms give the same. Pictures are taken as they were stored,
undecoded, and copied: Parquet gives no way to one of them. Files are read by pyarrow: `datasets` itself would first
copy all of Parquet into a cache of its own.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, JsonValue

from data.sources import Item
from data.sources._records import record
from data.sources._splits import of_split
from data.sources._subset import Choice, Subset, chooser, wnid
from data.sources._tables import ArrowTable, ParquetTable, Table, features
from data.sources._wrong_root import wrong_root

_CAPTIONS = ("caption", "captions", "text", "txt", "sentence", "sentences", "blip_caption")
_IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes")
_URLS = ("url", "image_url", "URL")
_LABELS = ("label", "labels", "cls", "class")
_OF = re.compile(r"-(\d+)-of-(\d+)$")


class Config(Subset):
    """Which rows to take."""

    path: Path = Field(description="the folder of the data set, or one .parquet or .arrow file")
    split: str | None = Field(default=None, description="which split, if there are several")


@dataclass(frozen=True)
class _Columns:
    """The columns that count, by what they hold; None where there is none."""

    image: str
    nested: bool
    """Whether the image is a struct of `bytes` and `path`."""
    caption: str | None
    label: str | None
    names: Sequence[str]
    """Names of the classes, by number."""
    others: Sequence[str]
    """What else `record` may use."""


class HfParquet:
    """The rows of one split."""

    def __init__(self, config: Config, tables: Sequence[Table]) -> None:
        """Take the files in order; the columns are those of the first."""
        self._config, self._tables = config, tables
        self._columns = _columns(tables[0])
        self._chooser: Callable[[], Choice] | None = None

    def __len__(self) -> int:
        """Number of rows that are taken; with classes or a list of ids at most."""
        total = sum(sum(table.groups) for table in self._tables)
        return min(total, self._config.limit or total)

    def listing(self) -> str:
        """SHA-256 over names, sizes and times of all files; raises as `chooser` does."""
        digest = hashlib.sha256(f"{self._config.path.resolve()}\n{self._config.list_digest()}".encode())
        for table in self._tables:
            status = table.path.stat()
            digest.update(f"{table.path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        self._chooser = None
        self._choice()
        return digest.hexdigest()

    def figures(self) -> Mapping[str, JsonValue]:
        """How many files there are, and how many their names say are missing."""
        counts = [int(found[2]) for table in self._tables if (found := _OF.search(table.path.stem))]
        missing = max(counts) - len(self._tables) if counts else 0
        return {"files": len(self._tables)} | ({"files_missing": missing} if missing > 0 else {})

    def items(self) -> Iterator[Item]:
        """Every row, in order."""
        choice = self._choice()
        for table, group, first, size in self._groups():
            if choice is not None and choice.ended(_id(first)):
                break
            taken = self._taken(table, group, first, size, choice)
            if not any(taken):
                continue
            place = 0
            for batch in table.batches(group, self._wanted(table)):
                for row in batch.to_pylist():
                    if taken[place]:
                        yield self._item(_id(first + place), row, table.path)
                    place += 1
        if choice is not None:
            yield from choice.absent()

    def _groups(self) -> Iterator[tuple[Table, int, int, int]]:
        """Each group of rows: its table, its number there, its first row, its size."""
        first = 0
        for table in self._tables:
            for group, size in enumerate(table.groups):
                yield table, group, first, size
                first += size

    def _taken(self, table: Table, group: int, first: int, size: int, choice: Choice | None) -> list[bool]:
        if choice is None:
            return [True] * size
        return [choice.takes(image_id, label) for image_id, label in self._labelled(table, group, first, size)]

    def _labelled(self, table: Table, group: int, first: int, size: int) -> Iterator[tuple[str, str | None]]:
        """Ids and classes of a group; classes are read only if some are wanted."""
        if not self._config.classes:
            yield from ((_id(row), None) for row in range(first, first + size))
            return
        path = [f"{self._columns.image}.path"] * self._columns.nested
        columns = [*path, *([self._columns.label] if self._columns.label else [])]
        for batch in table.batches(group, columns) if columns else ():
            for row in batch.to_pylist():
                name = row.get(path[0]) if path and path[0] in row else (row.get(self._columns.image) or {}).get("path")
                yield _id(first), self._label(row, name)
                first += 1

    def _choice(self) -> Choice | None:
        if self._config.everything:
            return None
        if self._chooser is None:
            groups = lambda: (one for group in self._groups() for one in self._labelled(*group))  # noqa: E731
            self._chooser = chooser(self._config, groups)
        return self._chooser()

    def _wanted(self, table: Table) -> list[str]:
        there = set(table.schema.names)
        columns = (self._columns.image, self._columns.caption, self._columns.label, *self._columns.others)
        lacking = sorted({self._columns.image} - there)
        if lacking:
            raise ValueError(f"{table.path} has no column {lacking[0]!r}, unlike {self._tables[0].path.name}")
        return [name for name in columns if name is not None and name in there]

    def _item(self, image_id: str, row: Mapping[str, Any], file: Path) -> Item:
        value = row[self._columns.image]
        content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        known = record({**row, "url": next((row[url] for url in _URLS if row.get(url)), None), "caption": None})
        label = self._label(row, name)
        if known.failure is not None:
            return Item(image_id, None, None, label, None, known.failure)
        if content is None and name is None:
            return Item(image_id, None, None, label, None, ("no_image", "the row has no picture"))
        # A picture that was not embedded lies where the data set was made, or beside it.
        place = content if content is not None else file.parent / str(name)
        return known.item(image_id, place, label, self._caption(row), trim=False)

    def _label(self, row: Mapping[str, Any], name: str | None) -> str | None:
        found = wnid("", name) if name else None
        value = row.get(self._columns.label) if self._columns.label is not None else None
        if found is not None or value is None or value == -1:  # -1: hidden, as of ImageNet's test split
            return found
        names = self._columns.names
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)

    def _caption(self, row: Mapping[str, Any]) -> str | None:
        value = row.get(self._columns.caption) if self._columns.caption is not None else None
        if isinstance(value, list):  # of several captions the first, as papers with one caption per image do
            value = next((text for text in value if isinstance(text, str)), None)
        return value if isinstance(value, str) else None


def open_source(config: Config) -> HfParquet:
    """The data set's files of one split.

    Raises:
        FileNotFoundError, ValueError: if there are none, or they hold no pictures.
    """
    root = config.path.expanduser().resolve()  # absolute, for pictures that lie beside the table
    found = _tables(root, config.split)
    if not found:
        expected = "a folder with .parquet files, or one that datasets' save_to_disk wrote"
        raise wrong_root(root, "hf_parquet", expected)
    return HfParquet(config, found)


def recognises(path: Path) -> str | None:
    """Parquet files with a column of pictures, or a folder of `save_to_disk`."""
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return "a data set of save_to_disk"
    first = next(iter(sorted(path.rglob("*.parquet"))), None) if path.is_dir() else path
    try:
        if first is None or first.suffix != ".parquet":
            return None
        _columns(ParquetTable(first))
    except (ValueError, OSError, pa.ArrowException):
        return None
    return "Parquet files with pictures"


def _tables(root: Path, split: str | None) -> Sequence[Table]:
    if (root / "dataset_dict.json").is_file():
        splits = json.loads((root / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        root = root / of_split(splits, str, split, "saved splits")[0]
        split = None
    if (root / "state.json").is_file():
        files = json.loads((root / "state.json").read_text(encoding="utf-8")).get("_data_files", [])
        return [ArrowTable(root / file["filename"]) for file in files]
    if root.is_file():
        kinds: dict[str, Callable[[Path], Table]] = {".parquet": ParquetTable, ".arrow": ArrowTable}
        return [kinds[root.suffix](root)] if root.suffix in kinds else []
    files = sorted(root.rglob("*.parquet"))
    if not files:
        return []
    return [ParquetTable(path) for path in of_split(files, lambda one: str(one.relative_to(root)), split, "files")]


def _columns(table: Table) -> _Columns:
    """Find the columns by what the data set says of them, else by their types and names."""
    schema = table.schema
    said = features(schema)
    nested = [field.name for field in schema if _holds_bytes(field.type)]
    plain = [name for name in _IMAGES if name in schema.names and _is_binary(schema.field(name).type)]
    images = [name for name in nested if said.get(name, {}).get("_type") == "Image"] or nested or plain
    if not images:
        urls = [name for name in _URLS if name in schema.names]
        hint = "it has addresses, not pictures: download them by img2dataset, then use source=webdataset" * bool(urls)
        raise ValueError(
            f"{table.path} has no column of pictures, only {', '.join(schema.names)};"
            f" {hint or 'expected a struct of bytes and path, or a binary column named image or jpg'}"
        )
    image = "image" if "image" in images else images[0]
    classes = [name for name, what in said.items() if what.get("_type") == "ClassLabel"]
    label = next((name for name in (*classes, *_LABELS) if name in schema.names and name != image), None)
    return _Columns(
        image=image,
        nested=image in nested,
        caption=next((name for name in _CAPTIONS if name in schema.names), None),
        label=label,
        names=said.get(label, {}).get("names") or [] if label else [],
        others=[name for name in (*_URLS, "status", "error_message", "exif", "sha256") if name in schema.names]
        + [name for name in ("original_width", "original_height") if name in schema.names],
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and "bytes" in [kind.field(place).name for place in range(kind.num_fields)]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _id(row: int) -> str:
    return f"{row:09d}"
