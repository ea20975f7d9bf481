"""A folder of image files, at any depth: a photo collection, ImageNet's class folders, a download.

Every file found is one item, whatever its name says: what is an image is decided by decoding it. Hidden files and
folders (a leading dot) are refused at sight, a hidden folder as one item. Links are followed, except a link to a folder
above itself.
"""

import hashlib
import heapq
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field, PositiveInt

from data.config import StageConfig
from data.sources import Item

_WNID = re.compile(r"n\d{8}")
_WNID_PREFIX = re.compile(r"(n\d{8})_")

# What lies beside images, by its suffix; a draw of n leaves it out, as it should draw images.
_SIDECAR = re.compile(
    r"\.(arrow|cls|csv|db|ini|json|jsonl|log|parquet|tsv|xml|ya?ml"
    r"|html?|md|pdf|py|sh|txt|mat|np[yz]|pkl|pt|safetensors|gz|tar|tgz|zip|avi|mov|mp4)",
    re.IGNORECASE,
)


class Config(StageConfig):
    """Which files to take."""

    path: Path = Field(description="the folder")
    limit: PositiveInt | None = Field(
        default=None, description="draw this many of the files that may be images; default: all"
    )
    seed: int = Field(default=0, description="of the draw")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file as the folder's listing shows it; `size` is -1 where even that cannot be read."""

    image_id: str
    path: Path
    size: int
    mtime_ns: int
    refused: tuple[str, str] | None = None

    @property
    def line(self) -> bytes:
        return f"{self.image_id}\0{self.size}\0{self.mtime_ns}\0{self.refused}\n".encode()


class Folder:
    """The image files below a folder; see the module's text for what is an item."""

    def __init__(self, config: Config) -> None:
        """Looks at the folder itself only.

        Raises:
            FileNotFoundError, NotADirectoryError, PermissionError, ValueError: if it cannot be read as a folder.
        """
        self._config = config
        self._root = _checked(config.path)
        self._chosen: frozenset[str] | None = None
        self._length: int | None = None

    def __len__(self) -> int:
        """Number of items; lists the folder unless `listing` did."""
        if self._length is None:
            self.listing()
        return self._length or 0

    def listing(self) -> str:
        """SHA-256 over the folder's place and the id, size and modification time of every item.

        Files that were not drawn do not enter.

        Raises:
            ValueError: if there is no file, or none that may be drawn.
        """
        if self._config.limit is not None:
            self._chosen = self._draw(self._config.limit)
        # The place, because the images are read where they are: after a move the rows need other paths.
        digest = hashlib.sha256(f"{self._root}\n".encode())
        length = 0
        for entry in self._entries():
            digest.update(entry.line)
            length += 1
        if not length:
            what = "no file" if self._config.limit is None else "no file that may be an image"
            raise ValueError(f"there is {what} in {self._root}; give a folder of images")
        self._length = length
        return digest.hexdigest()

    def items(self) -> Iterator[Item]:
        """Every item, sorted by id; the folder is walked as they are asked for."""
        if self._config.limit is not None and self._chosen is None:
            self._chosen = self._draw(self._config.limit)
        for entry in self._entries():
            label = _label(self._root, entry.image_id)
            location = None if entry.refused else entry.path
            yield Item(entry.image_id, location, None, label, None, entry.refused)

    def _entries(self) -> Iterator[_Entry]:
        chosen = self._chosen
        return (entry for entry in _walk(self._root, "", ()) if chosen is None or entry.image_id in chosen)

    def _draw(self, count: int) -> frozenset[str]:
        """The `count` ids of least hash: each image's chance is its own, so a new image replaces at most one."""
        eligible = (
            entry.image_id
            for entry in _walk(self._root, "", ())
            if entry.refused is None and not _SIDECAR.fullmatch(PurePosixPath(entry.image_id).suffix)
        )
        return frozenset(heapq.nsmallest(count, eligible, key=self._lot))

    def _lot(self, image_id: str) -> bytes:
        return hashlib.sha256(f"{self._config.seed}\0{image_id}".encode()).digest()


def open_source(config: Config) -> Folder:
    """The folder as a source; raises as `Folder` does."""
    return Folder(config)


def _checked(path: Path) -> Path:
    try:
        root = path.expanduser().resolve(strict=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"no folder at {path} (seen from {Path.cwd()}); give the folder of images") from None
    if not root.is_dir():
        raise NotADirectoryError(f"{path} is a file; give the folder that holds the images")
    if not _is_text(str(root)):
        raise ValueError(f"the folder's path {_escaped(str(root))} is not UTF-8 and no table can hold it; rename it")
    try:
        os.scandir(root).close()
    except PermissionError:
        raise PermissionError(f"may not list {path}; give yourself the right to read it") from None
    return root


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[_Entry]:
    """Everything below `folder` in the order of the ids.

    Args:
        prefix: id of the folder with a trailing "/", empty for the root.
        above: device and inode of every folder that leads here.
    """
    try:
        status = folder.stat()
        found = list(os.scandir(folder))
    except OSError as error:
        yield _refused(folder, prefix, "unreadable", error.strerror or str(error))
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        yield _refused(folder, prefix, "unreadable", "a link to a folder above it, not followed")
        return
    # A folder sorts as "name/", so that its files come where their whole ids belong ("a.jpg" before "a/b.jpg").
    for is_folder, entry in sorted(((_is_folder(e), e) for e in found), key=lambda pair: _place(*pair)):
        name = prefix + entry.name + "/" * is_folder
        path = folder / entry.name
        if not _is_text(entry.name):
            yield _refused(path, _escaped(name), "bad_name", "the name is not UTF-8; rename it")
        elif entry.name.startswith("."):
            yield _refused(path, name, "hidden", "a hidden folder, not walked" if is_folder else "a hidden file")
        elif is_folder:
            yield from _walk(path, name, (*above, here))
        else:
            yield _file(entry, name, path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link that leads to itself
        return False


def _place(is_folder: bool, entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name) + b"/" * is_folder


def _file(entry: os.DirEntry[str], name: str, path: Path) -> _Entry:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing, or gone meanwhile; whoever opens it will say so
        return _Entry(name, path, -1, 0)
    return _Entry(name, path, status.st_size, status.st_mtime_ns)


def _refused(path: Path, name: str, reason: str, detail: str) -> _Entry:
    return _Entry(name, path, -1, 0, (reason, detail))


def _is_text(name: str) -> bool:
    """Whether a file name was UTF-8: Python keeps other bytes as lone surrogates, which no table can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _escaped(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _label(root: Path, image_id: str) -> str | None:
    """ImageNet's class: the nearest folder named by a wnid, else a file name that begins with one and "_".

    English class names are no key: ImageNet has two of "crane" and two of "maillot".
    """
    path = PurePosixPath(image_id)
    for folder in (*reversed(path.parts[:-1]), root.name):
        if _WNID.fullmatch(folder):
            return folder
    prefix = _WNID_PREFIX.match(path.name)
    return prefix.group(1) if prefix else None
