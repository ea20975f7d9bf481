"""Finding a benchmark's files under the folders in which users keep them, and saying what is missing."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from data.images import BadImage
from data.keys import digest

Shape = TypeVar("Shape")

EXTENSIONS = (".jpg", ".png", ".jpeg", ".webp", ".JPG", ".JPEG", ".PNG")


class WrongRoot(FileNotFoundError):  # noqa: N818  (says what the user did)
    """The root folder does not hold the benchmark's files in any layout that is known."""


class BrokenAnnotations(ValueError):  # noqa: N818  (likewise)
    """An annotation file is not what its benchmark publishes; the message names the file and the place in it."""


def find_folder(root: Path, places: Sequence[str], needed: Sequence[str], advice: str) -> Path:
    """The first of `places` under `root` that holds every needed file.

    Args:
        root: the folder the user named.
        places: folders relative to root, the likeliest first; "" is root itself.
        needed: files relative to such a folder.
        advice: where the files come from, for the message.

    Raises:
        WrongRoot: says what was found under root, what was expected and where to put it.
    """
    if not root.is_dir():
        raise WrongRoot(f"{root} is {'a file' if root.exists() else 'not there'}; expected a folder with {needed[0]}")
    tried: list[Path] = []
    for place in places:
        folder = root / place
        if folder.is_dir() and not any(_same(folder, one) for one in tried):
            tried.append(folder)
            if all((folder / name).is_file() for name in needed):
                return folder
    nearest = min(tried, key=lambda folder: sum(not (folder / name).is_file() for name in needed))
    missing = [name for name in needed if not (nearest / name).is_file()]
    raise WrongRoot(
        f"{root} holds {listing(root)}; expected {', '.join(needed)} in it"
        + _or_below(places)
        + f". Put {', '.join(missing)} into {nearest} ({advice})"
    )


def _same(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other)


def _or_below(places: Sequence[str]) -> str:
    below = [place for place in places if place]
    return f" or in one of {', '.join(f'{place}/' for place in below)}" if below else ""


def listing(folder: Path, most: int = 8) -> str:
    """The first names in a folder, for a message."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_json(path: Path, distinct: bool = False) -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        distinct: refuse an object that names a key twice, of which parsing keeps the last value only.

    Raises:
        BrokenAnnotations: with line and column when the file is cut or garbled, or with the key that is named twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        refuse_repeats(path, "key", (key for key, _ in pairs))
        return dict(pairs)

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=once if distinct else None)
    except json.JSONDecodeError as error:
        raise BrokenAnnotations(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}; fetch the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise BrokenAnnotations(f"{path} is not JSON: byte {error.start} is not UTF-8; fetch the file again") from error


def read_as(path: Path, shape: TypeAdapter[Shape]) -> Shape:
    """Parse a JSON file and check its shape.

    Raises:
        BrokenAnnotations: names the file, the entry and the field, for instance `entry 3, captions`.
    """
    found = read_json(path)
    try:
        return shape.validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ", ".join(f"entry {part}" if isinstance(part, int) else str(part) for part in first["loc"])
        more = f" ({error.error_count() - 1} more like it)" if error.error_count() > 1 else ""
        raise BrokenAnnotations(
            f"{path}: {place or 'the whole file'}: {first['msg']}, found {str(first['input'])[:80]!r}{more};"
            " want the file as its authors publish it"
        ) from error


def refuse_repeats(path: Path, what: str, ids: Iterable[str]) -> None:
    """Raise `BrokenAnnotations` if an id occurs twice in what `path` lists."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise BrokenAnnotations(f"{path}: {what} {one!r} occurs twice; want each once")
        seen.add(one)


def refuse_strangers(path: Path, known: Iterable[str], named: Iterable[tuple[str, str]], where: str) -> None:
    """Raise `BrokenAnnotations` if a query (first of each pair) names an image (second) that `where` does not list."""
    gallery = frozenset(known)
    for query, image in named:
        if image not in gallery:
            raise BrokenAnnotations(f"{path}: query {query} names image {image!r}, which {where} does not list")


class ImageFiles:
    """Where the images of a benchmark lie: the folders that exist, tried in order, and any usual extension.

    Attributes:
        folders: existing folders, the likeliest first.
    """

    def __init__(self, roots: Iterable[Path], places: Sequence[str]) -> None:
        wanted = [root / place for root in roots for place in places]
        self._wanted = wanted
        self._names: dict[Path, frozenset[str]] = {}
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in wanted if folder.is_dir()))

    def locate(self, name: str) -> Path:
        """The file called `name`, a relative path whose extension may differ on disk.

        Folders are listed once, since a file server answers one listing faster than 100,000 questions.

        Raises:
            data.images.BadImage: "unreadable", with the folders that were tried.
        """
        wanted = Path(name)
        stem = wanted.stem if wanted.suffix in EXTENSIONS else wanted.name
        for folder in self.folders:
            names = self._listed(folder / wanted.parent)
            for other in (wanted.name, *(stem + extension for extension in EXTENSIONS)):
                if other in names:
                    return folder / wanted.parent / other
        tried = self.folders or self._wanted
        raise BadImage("unreadable", f"no file {name} (or with another extension) in {', '.join(map(str, tried))}")

    def _listed(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
        return self._names[folder]

    def fingerprint(self, names: Iterable[str]) -> str:
        """Digest of sizes and times of the named files; changes whenever one appears, disappears or is replaced."""
        seen = []
        for name in names:
            try:
                status = self.locate(name).stat()
                seen.append([name, status.st_size, status.st_mtime_ns])
            except (BadImage, OSError):
                seen.append([name, -1, -1])
        return digest(seen)
