"""Where images come from, and how a source is found by its name.

One file per source: `data/sources/<name>.py` defines `Config` (a `StageConfig`) and `open_source(config) -> Source`.
The folder is the registry: a new source is a new file and no edit elsewhere.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from pydantic import JsonValue

from data.config import StageConfig
from data.mending import Mend
from data.places import Place
from data.suggest import did_you_mean


@dataclass(frozen=True)
class Item:
    """One thing that a source found: an image to be verified, or something refused at sight.

    Exactly one of `location`, `payload` and `refused` is set.
    """

    image_id: str
    """Stable and unique in the source: for files the path relative to the folder, with "/" and suffix."""
    location: Place | None
    """The image file, or the stretch of a file that holds it; the path is absolute."""
    payload: bytes | None
    """The encoded image, for sources whose images are no files."""
    label: str | None
    """ImageNet's class id (wnid, "n" and eight digits) where one is known, else the source's own name of the class."""
    caption: str | None
    refused: tuple[str, str] | None = None
    """Reason and detail, where the source knows without decoding that this is no image to use."""
    foil: str | None = None
    """A caption that is wrong in one word."""
    url: str | None = None
    """Where the image was downloaded from."""
    sha256: str | None = None
    """Of the original's bytes, where the source says it; 64 hexadecimal digits."""
    mend: Mend | None = None
    """What the download did to it and is to be undone."""
    repeats: bool = False
    """Whether other items show the same picture on purpose, each with texts of its own; then none is a duplicate."""


class Source(Protocol):
    """Images in the order of their ids.

    A source of known length also has `__len__`, one that knows it sometimes `__length_hint__`.
    """

    def listing(self) -> str:
        """Digest of what there is (names, sizes and times, or the parameters), cheap: nothing is decoded.

        Raises:
            OSError, ValueError: if there is nothing to read; says what to do.
        """
        ...

    def items(self) -> Iterator[Item]:
        """Everything found, sorted by `image_id`; each call starts anew."""
        ...


@runtime_checkable
class Described(Protocol):
    """A source that has something to say beside its items."""

    def figures(self) -> Mapping[str, JsonValue]:
        """Figures for the report, such as the number of shards and of incomplete ones; after `listing`, cheap."""
        ...


class SourceModule(Protocol):
    """What a file of this folder defines.

    It may also define `DOWNLOADED = True`, if its pictures came from the web by their addresses, and
    ``recognises(path) -> str | None``: what at a path looks like this source, for the error of another.
    """

    Config: type[StageConfig]
    open_source: Callable[[Any], Source]


def names() -> list[str]:
    """Names that `load_source` knows: the files of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load_source(name: str) -> SourceModule:
    """Import `data/sources/<name>.py`.

    Raises:
        LookupError: if there is no such file; names the nearest.
    """
    if name not in names():
        raise LookupError(f"no source {name!r};{did_you_mean(name, names())}")
    return cast(SourceModule, importlib.import_module(f"{__name__}.{name}"))
