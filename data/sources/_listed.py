"""Images that a list names: their ids are the numbers of its rows, their files lie in a folder."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from data.places import Place
from data.sources import Item
from data.sources._subset import Choice, Subset, chooser

_CHUNK = 1 << 20


class ListedConfig(Subset):
    """Which list, and where its files are."""

    path: Path = Field(description="the list, or the folder that holds it")
    files: Path | None = Field(default=None, description="folder of the image files; default: the list's own")

    def folder(self, table: Path) -> Path:
        """The folder of the images.

        Raises:
            NotADirectoryError: if there is none.
        """
        folder = (self.files if self.files is not None else table.parent).expanduser()
        if not folder.is_dir():
            raise NotADirectoryError(f"no folder of images at {folder} (seen from {Path.cwd()}); set files=...")
        return folder.resolve()


class Listed:
    """The rows of a list."""

    def __init__(
        self,
        config: Subset,
        table: Path,
        rows: Callable[[], Iterator[Item]],
        figures: Callable[[], Mapping[str, JsonValue]] = dict,
    ) -> None:
        """Take a list.

        Args:
            config: the subset.
            table: the file of the list.
            rows: all of its rows in order, those without an image refused; called for each pass.
            figures: for the report.
        """
        self._config, self._table, self._rows, self.figures = config, table, rows, figures
        self._chooser: Callable[[], Choice] | None = None
        self._length = -1

    def __length_hint__(self) -> int:
        """Number of items, once `listing` has counted them."""
        return self._length if self._length >= 0 else NotImplemented

    def listing(self) -> str:
        """SHA-256 over the list and the place, size and time of every image that is taken.

        Raises:
            FileNotFoundError, ValueError: if the list is empty, or there is nothing to draw from.
        """
        status = self._table.stat()
        head = (str(self._table.resolve()), status.st_size, status.st_mtime_ns, self._config.list_digest())
        digest = hashlib.sha256(repr(head).encode())
        self._chooser, self._length = None, 0
        for item in self.items():
            digest.update(f"{item.image_id}\0{_facts(item.location)}\0{item.refused}\n".encode())
            self._length += 1
        if not self._length:
            raise ValueError(f"the list {self._table} has no rows")
        return digest.hexdigest()

    def items(self) -> Iterator[Item]:
        """Every row, in order."""
        if self._config.everything:
            yield from self._rows()
            return
        if self._chooser is None:
            self._chooser = chooser(
                self._config, lambda: ((row.image_id, row.label) for row in self._rows() if row.refused is None)
            )
        choice = self._chooser()
        for row in self._rows():
            if choice.ended(row.image_id):
                break
            if choice.takes(row.image_id, row.label) and (self._config.limit is None or row.refused is None):
                yield row
        yield from choice.absent()


def row_id(row: int) -> str:
    """The id of a row, so that ids are in the order of the rows."""
    return f"{row:09d}"


def missing(row: int, name: str) -> Item:
    """A row whose image file is not there."""
    return Item(row_id(row), None, None, None, None, ("image_missing", f"there is no file {name}"))


def bad_row(row: int, detail: str) -> Item:
    """A row that is not as it should be."""
    return Item(row_id(row), None, None, None, None, ("bad_row", detail))


def inside(folder: Path, name: str) -> Path | None:
    """The file of that name below a folder; None if there is none, or the name leads out of it."""
    if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        return None
    try:
        path = folder / name
        return path if path.is_file() else None
    except OSError:  # such as a name that is too long
        return None


def array_items(path: Path) -> Iterator[Any]:
    """The items of a JSON array in a file, one at a time: such files may be larger than memory.

    Raises:
        ValueError: if the file is no JSON array, or ends early; what came before was yielded.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as stream:
        text, at, started, final = "", 0, False, False
        while True:
            at = _skip(text, at, "\n\r\t ," if started else "\n\r\t \ufeff")
            if at < len(text) and not started:
                if text[at] != "[":
                    raise ValueError(f"{path} is no JSON array; it begins with {text[at : at + 40]!r}")
                started, at = True, at + 1
                continue
            if at < len(text) and text[at] == "]":
                return
            try:
                item, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                if final:
                    raise ValueError(f"{path} is no whole JSON array: {error}; is its download complete?") from error
                more = stream.read(max(_CHUNK, len(text)))
                text, at, final = text[at:] + more, 0, not more
                continue
            yield item


def _skip(text: str, at: int, letters: str) -> int:
    while at < len(text) and text[at] in letters:
        at += 1
    return at


def _facts(place: Place | None) -> tuple[str, int, int] | None:
    if not isinstance(place, Path):
        return None
    try:
        status = place.stat()
    except OSError:
        return str(place), -1, 0
    return str(place), status.st_size, status.st_mtime_ns
