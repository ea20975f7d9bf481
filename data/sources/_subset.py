"""Taking part of a source: so many by seed or from the front, some classes, or the ids of a list."""

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, PositiveInt

from data.config import StageConfig
from data.keys import file_digest
from data.sources import Item

_WNID = re.compile(r"n\d{8}")
_WNID_PREFIX = re.compile(r"(n\d{8})_")

Entries = Iterable[tuple[str, str | None]]
"""Id and class of everything that may be drawn, in the order of the ids."""


class Subset(StageConfig):
    """Which part of a source to take; everything by default. Several conditions hold together."""

    limit: PositiveInt | None = Field(default=None, description="take this many of what may be images; default: all")
    seed: int = Field(default=0, description="of the draw")
    draw: Literal["seeded", "first"] = Field(default="seeded", description="by lot, or the first by id")
    classes: tuple[str, ...] = Field(default=(), description="only images of these classes (ImageNet: wnids)")
    ids: Path | None = Field(default=None, description="only the image ids in this file, one per line")

    @property
    def everything(self) -> bool:
        return self.limit is None and not self.classes and self.ids is None

    def list_digest(self) -> str:
        """Digest of the file of ids, empty without one; raises FileNotFoundError."""
        return "" if self.ids is None else file_digest(_listed(self.ids))


class Choice:
    """A subset, worked out: says of each id whether it is taken. For one pass over the source."""

    def __init__(self, subset: Subset, wanted: frozenset[str] | None, worst: bytes | None, last: str | None) -> None:
        self._subset, self._wanted, self._worst, self._last = subset, wanted, worst, last
        self._unseen = set(wanted or ())
        self._unseen_classes = set(subset.classes)

    def takes(self, image_id: str, label: str | None) -> bool:
        """Whether an image belongs to the subset."""
        self._unseen.discard(image_id)
        if self._subset.classes and label not in self._subset.classes:
            return False
        self._unseen_classes.discard(label or "")
        if self._wanted is not None and image_id not in self._wanted:
            return False
        if self._last is not None:
            return image_id <= self._last
        return self._worst is None or _lot(self._subset.seed, image_id) <= self._worst

    def ended(self, image_id: str) -> bool:
        """Whether nothing from this id on can be taken, nor has to be looked for."""
        searched = bool(self._unseen or self._unseen_classes)
        return self._last is not None and image_id > self._last and not searched

    def absent(self) -> Iterator[Item]:
        """After a whole pass: what was asked for and is not there."""
        for image_id in sorted(self._unseen):
            reason = "not_in_source", f"it is in {self._subset.ids}, but not in the source"
            yield Item(image_id, None, None, None, None, reason)
        for name in sorted(self._unseen_classes):
            yield Item(name, None, None, None, None, ("no_such_class", "no image of the source is of this class"))


def chooser(subset: Subset, entries: Callable[[], Entries]) -> Callable[[], Choice]:
    """Work a subset out; each call of the result begins a new pass.

    Memory grows with the number of images drawn and the length of a list of ids, not with the source.

    Args:
        subset: what is wanted.
        entries: called if there is something to draw; decodes nothing.

    Raises:
        FileNotFoundError, ValueError: if the file of ids is missing or empty, or there is nothing to draw from.
    """
    wanted = None if subset.ids is None else _read_ids(subset.ids)
    worst: bytes | None = None
    last: str | None = None
    if subset.limit is not None:
        conditions = Choice(subset, wanted, None, None)
        drawable = (image_id for image_id, label in entries() if conditions.takes(image_id, label))
        if subset.draw == "first":
            for last in islice(drawable, subset.limit):  # noqa: B007  the last one counts
                pass
        else:
            # The ids of least hash: each image's chance is its own, so a new image replaces at most one.
            worst = max(heapq.nsmallest(subset.limit, (_lot(subset.seed, one) for one in drawable)), default=None)
        if worst is None and last is None:
            raise ValueError("there is no file that may be an image and is of the wanted subset")
    return lambda: Choice(subset, wanted, worst, last)


def _lot(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{image_id}".encode()).digest()


def _listed(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no list of ids at {path} (seen from {Path.cwd()}); give a text file, one id per line")
    return path


def _read_ids(path: Path) -> frozenset[str]:
    lines = _listed(path).read_text(encoding="utf-8").splitlines()
    ids = frozenset(line.strip() for line in lines if line.strip())
    if not ids:
        raise ValueError(f"the list of ids {path} is empty; write one image id per line")
    return ids


def wnid(root_name: str, image_id: str) -> str | None:
    """ImageNet's class: the nearest folder named by a wnid, else a file name that begins with one and "_".

    English class names are no key: ImageNet has two of "crane" and two of "maillot".

    Args:
        root_name: name of the folder that ids are relative to; it may be the class.
        image_id: path of the image below it.
    """
    path = PurePosixPath(image_id)
    for folder in (*reversed(path.parts[:-1]), root_name):
        if _WNID.fullmatch(folder):
            return folder
    prefix = _WNID_PREFIX.match(path.name)
    return prefix.group(1) if prefix else None
