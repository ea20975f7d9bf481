"""A list of captions and addresses, such as CC3M's, and a folder of the pictures that somebody downloaded by it.

CC3M's files have no header: each line is `caption TAB url`. How the files are named is found out from the first rows.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import md5, sha256
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from pydantic import JsonValue

from data.sources import Item
from data.sources._listed import Listed, ListedConfig, bad_row, inside, missing, row_id
from data.sources._wrong_root import wrong_root

DOWNLOADED = True
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp", ".gif")
_PROBED = 2000
_URL = re.compile(r"[a-z]+://", re.IGNORECASE)
_HEADS = {
    "caption": ("caption", "text", "title"),
    "url": ("url", "image_url", "link"),
    "file": ("file", "image", "path", "file_name"),
}


class Config(ListedConfig):
    """Which list, and where its files are."""


@dataclass(frozen=True)
class _Columns:
    """Places of the columns in a line, and whether the first line names them."""

    caption: int
    url: int
    file: int | None
    header: bool


class _Tsv:
    """Lines of the list, and the files that belong to them."""

    def __init__(self, table: Path, folder: Path) -> None:
        self._table, self._folder = table, folder

    def rows(self) -> Iterator[Item]:
        """Every line as an item."""
        for row, line in enumerate(self._lines()):
            yield self._item(row, line)

    def figures(self) -> Mapping[str, JsonValue]:
        """How the files are named."""
        return {"named_by": self._named_by}

    def _item(self, row: int, line: Sequence[str] | str) -> Item:
        if isinstance(line, str):
            return bad_row(row, line)
        url = line[self._columns.url].strip()
        names = _names(self._named_by, row, url, self._file(line))
        place = next((path for name in names if (path := inside(self._folder, name)) is not None), None)
        if place is None:
            return missing(row, names[0] if names else f"for the address {url}")
        if self._named_by == "name" and _hash(_last(url)) in self._ambiguous:
            detail = f"several addresses end in {_last(url)!r}; whose picture the file is cannot be told"
            return Item(row_id(row), None, None, None, None, ("ambiguous_name", detail))
        caption = line[self._columns.caption].strip() or None
        return Item(row_id(row), place, None, None, caption, url=url)

    def _file(self, line: Sequence[str]) -> str | None:
        place = self._columns.file
        return line[place].strip() if place is not None and place < len(line) else None

    def _lines(self) -> Iterator[Sequence[str] | str]:
        """The columns of each line; of a bad line what is wrong with it."""
        with self._table.open("rb") as stream:
            for raw in islice(stream, int(self._columns.header), None):
                try:
                    line = raw.decode("utf-8").rstrip("\r\n").split("\t")
                except UnicodeDecodeError as error:
                    yield f"not UTF-8: {error}"
                    continue
                enough = len(line) > max(self._columns.caption, self._columns.url)
                yield line if enough else f"want caption TAB url, found {raw[:80]!r}"

    @cached_property
    def _columns(self) -> _Columns:
        with self._table.open("rb") as stream:
            first = stream.readline().decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if any(_URL.match(column.strip()) for column in first):
            url = next(place for place, column in enumerate(first) if _URL.match(column.strip()))
            return _Columns(0 if url else 1, url, None, header=False)
        names = [column.strip().lower() for column in first]
        found = {
            what: next((names.index(name) for name in words if name in names), None) for what, words in _HEADS.items()
        }
        if found["caption"] is None or found["url"] is None:
            raise ValueError(
                f"{self._table}: found a first line of {len(first)} columns, {first!r}; expected caption TAB url, as"
                " CC3M's files have it, or a header with these names"
            )
        return _Columns(found["caption"], found["url"], found["file"], header=True)

    @cached_property
    def _named_by(self) -> str:
        """The rule that finds most of the first rows' files; resolved once, and part of the report."""
        if self._columns.file is not None:
            return "file"
        hits: Counter[str] = Counter()
        examples = ""
        for row, line in enumerate(islice(self._lines(), _PROBED)):
            if isinstance(line, str):
                continue
            url = line[self._columns.url].strip()
            examples = examples or ", ".join(_names(rule, row, url, None)[0] for rule in _RULES)
            hits.update(
                rule for rule in _RULES if any(inside(self._folder, name) for name in _names(rule, row, url, None))
            )
        if not hits:
            there = next((path.name for path in self._folder.iterdir() if path.is_file()), "no file")
            raise ValueError(
                f"none of the first {_PROBED} rows of {self._table.name} has a file in {self._folder}; expected names"
                f" such as {examples}; found {there}. Set files=... to the folder of the images, or give the list a"
                " header and a column `file`"
            )
        return max(_RULES, key=lambda rule: hits[rule])

    @cached_property
    def _ambiguous(self) -> frozenset[int]:
        """Hashes of the file names that addresses which differ end in; 16 bytes per row while it is worked out."""
        lines = (line for line in self._lines() if not isinstance(line, str))
        urls = (line[self._columns.url].strip() for line in lines)
        pair = np.dtype((np.int64, 2))
        pairs = np.fromiter(((_hash(_last(url)), _hash(url)) for url in urls), dtype=pair)
        distinct = np.unique(pairs.reshape(-1, 2), axis=0)
        names, counts = np.unique(distinct[:, 0], return_counts=True)
        return frozenset(names[counts > 1].tolist())


_RULES = ("name", "row_crc32", "crc32", "md5", "sha256")


def _names(rule: str, row: int, url: str, file: str | None) -> list[str]:
    """File names that a row may have by a rule, the likeliest first.

    `name` is the last part of the address, `row_crc32` and `crc32` are what common scripts for CC3M use, `md5` and
    `sha256` are of the address.
    """
    raw = url.encode("utf-8", "surrogatepass")
    last = _last(url)
    stems = {
        "file": [file or ""],
        "name": list(dict.fromkeys([last, unquote(last)])),
        "row_crc32": [f"{row}_{zlib.crc32(raw)}"],
        "crc32": [str(zlib.crc32(raw))],
        "md5": [md5(raw, usedforsecurity=False).hexdigest()],
        "sha256": [sha256(raw).hexdigest()],
    }[rule]
    return [f"{stem}{suffix}" for suffix in _SUFFIXES for stem in stems if stem]


def _last(url: str) -> str:
    """The last part of an address's path; of what is no address all of it."""
    try:
        return urlsplit(url).path.rpartition("/")[2]
    except ValueError:
        return url.rpartition("/")[2]


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


def open_source(config: Config) -> Listed:
    """The list at a path, or the only one in a folder.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: if there is no list, or several, or no folder of images.
    """
    root = config.path.expanduser()
    found = [root] if root.is_file() and root.suffix in (".tsv", ".txt", ".csv") else sorted(root.glob("*.tsv"))
    if len(found) > 1:
        raise ValueError(f"{root} has {len(found)} lists, {', '.join(path.name for path in found)}; give one as path")
    if not found:
        raise wrong_root(root, "tsv", "a file caption TAB url (.tsv), or a folder with one")
    lines = _Tsv(found[0], config.folder(found[0]))
    return Listed(config, found[0], lines.rows, lines.figures)


def recognises(path: Path) -> str | None:
    """A .tsv file."""
    found = path.suffix == ".tsv" if path.is_file() else any(path.glob("*.tsv"))
    return "a list of addresses and the images beside it" if found else None
