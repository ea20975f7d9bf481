"""A folder of image files, at any depth: a photo collection, ImageNet's class folders, a download.

Every file found is one item, whatever its name says: what is an image is decided by decoding it. Hidden files and
folders (a leading dot) are refused at sight, a hidden folder as one item. Links are followed, except a link to a folder
above itself.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from data.sources import Item
from data.sources._subset import Choice, Subset, chooser, wnid

# What lies beside images, by its suffix; a draw of n leaves it out, as it should draw images.
SIDECAR = re.compile(
    r"\.(arrow|cls|csv|db|ini|json|jsonl|log|parquet|tsv|xml|ya?ml"
    r"|html?|md|pdf|py|sh|txt|mat|np[yz]|pkl|pt|safetensors|gz|tar|tgz|zip|avi|mov|mp4)",
    re.IGNORECASE,
)


class Config(Subset):
    """Which files to take."""

    path: Path = Field(description="the folder")


@dataclass(frozen=True, slots=True)
class Entry:
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

    def __init__(self, config: Config, label: Callable[[str], str | None] | None = None, salt: str = "") -> None:
        """Looks at the folder itself only.

        Args:
            config: which files to take.
            label: from an id to its class; left out, ImageNet's by the names of folders and files.
            salt: digest of what `label` goes by, for the listing.

        Raises:
            FileNotFoundError, NotADirectoryError, PermissionError, ValueError: if it cannot be read as a folder.
        """
        self._config, self._salt = config, salt
        self._root = checked(config.path)
        self._label = label or (lambda image_id: wnid(self._root.name, image_id))
        self._chooser: Callable[[], Choice] | None = None
        self._length: int | None = None

    def __len__(self) -> int:
        """Number of items; lists the folder unless `listing` did."""
        if self._length is None:
            self.listing()
        return self._length or 0

    def listing(self) -> str:
        """SHA-256 over the folder's place and the id, size and modification time of every item.

        Files that are not taken do not enter.

        Raises:
            FileNotFoundError: if the list of ids is missing.
            ValueError: if there is no file, or none that may be drawn.
        """
        self._chooser = None
        # The place, because the images are read where they are: after a move the rows need other paths.
        digest = hashlib.sha256(f"{self._root}\n{self._config.list_digest()}{self._salt}".encode())
        length = 0
        for entry in self._entries():
            digest.update(entry.line)
            length += 1
        if not length:
            what = "no file" if self._config.everything else "no file that may be an image"
            raise ValueError(f"there is {what} in {self._root}; give a folder of images")
        self._length = length
        return digest.hexdigest()

    def items(self) -> Iterator[Item]:
        """Every item, sorted by id; the folder is walked as they are asked for."""
        for entry in self._entries():
            label = self._label(entry.image_id)
            location = None if entry.refused else entry.path
            yield Item(entry.image_id, location, None, label, None, entry.refused)

    def _entries(self) -> Iterator[Entry]:
        if self._config.everything:
            yield from walk(self._root)
            return
        if self._chooser is None:
            try:
                self._chooser = chooser(self._config, lambda: ((e.image_id, label) for e, label in self._drawable()))
            except ValueError as error:
                raise ValueError(f"{error} in {self._root}; give a folder of images") from error
        choice = self._chooser()
        for entry, label in self._drawable():
            if choice.ended(entry.image_id):
                break
            if choice.takes(entry.image_id, label):
                yield entry
        for item in choice.absent():
            yield Entry(item.image_id, self._root, -1, 0, item.refused)

    def _drawable(self) -> Iterator[tuple[Entry, str | None]]:
        for entry in walk(self._root):
            if entry.refused is None and not SIDECAR.fullmatch(PurePosixPath(entry.image_id).suffix):
                yield entry, self._label(entry.image_id)


def open_source(config: Config) -> Folder:
    """The folder as a source; raises as `Folder` does."""
    return Folder(config)


def checked(path: Path) -> Path:
    """The folder's real path; raises as `Folder`."""
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


def walk(folder: Path, prefix: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[Entry]:
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
            yield from walk(path, name, (*above, here))
        else:
            yield _file(entry, name, path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link that leads to itself
        return False


def _place(is_folder: bool, entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name) + b"/" * is_folder


def _file(entry: os.DirEntry[str], name: str, path: Path) -> Entry:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing, or gone meanwhile; whoever opens it will say so
        return Entry(name, path, -1, 0)
    return Entry(name, path, status.st_size, status.st_mtime_ns)


def _refused(path: Path, name: str, reason: str, detail: str) -> Entry:
    return Entry(name, path, -1, 0, (reason, detail))


def _is_text(name: str) -> bool:
    """Whether a file name was UTF-8: Python keeps other bytes as lone surrogates, which no table can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _escaped(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
