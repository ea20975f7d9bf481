"""Pictures for a page: by id from the table of images, small, a bounded number of them in memory."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from data.artifact import Artifact, same_schema
from data.images import BadImage
from data.schemas import IMAGES
from tasks.ingest import open_image
from tasks.view_sql import connect, parquet, rows_of

SIDES = (96, 192, 512)
"""Longest sides that are made; a page asks for one of these."""
_CACHE_BYTES = 64 * 2**20
_QUALITY = 82


@dataclass(frozen=True)
class Shown:
    """A picture as it is sent, or in words why there is none."""

    data: bytes = b""
    problem: str = ""


class Thumbnails:
    """Small pictures made when they are asked for; at most 64 MB of them are remembered."""

    def __init__(self, load: Callable[[str], Image.Image]) -> None:
        """`load` opens an image by its id; it may raise LookupError, OSError and BadImage."""
        self._load = load
        self._kept: OrderedDict[tuple[str, int], Shown] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, image_id: str, side: int) -> Shown:
        """A picture of at most side x side pixels, as WebP.

        Raises:
            ValueError: if the side is none of `SIDES`.
        """
        if side not in SIDES:
            raise ValueError(f"pictures have a side of {', '.join(map(str, SIDES))} pixels, not {side}")
        key = (image_id, side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        shown = packed(lambda: self._load(image_id), side)
        with self._lock:
            if not shown.problem and key not in self._kept:  # what is gone may come back
                self._kept[key] = shown
                self._bytes += len(shown.data)
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1].data)
        return shown


class Pictures(Thumbnails):
    """The pictures of an artifact of `ingest`."""

    def __init__(self, images: Artifact) -> None:
        """Open the table; nothing of it is kept in memory."""
        super().__init__(self.open)
        self.images = images
        path = images.file("images.parquet")
        same_schema(pq.read_schema(path), IMAGES, str(path))
        self._table = parquet(path)
        self._connection = connect("128MB", 1)

    def row(self, image_id: str) -> dict[str, Any] | None:
        """What the table says of an image."""
        found = self._ask("WHERE image_id = ?", [image_id])
        return found[0] if found else None

    def some(self, count: int, seed: int, part: str = "") -> list[str]:
        """Ids of some images, drawn at random; those whose id has `part` in it, if there is one."""
        where = "WHERE contains(lower(image_id), ?)" if part else ""
        rows = self._ask(
            f"{where} ORDER BY hash(image_id || ?) LIMIT {int(count)}", [*([part.lower()] if part else []), str(seed)]
        )
        return [row["image_id"] for row in rows]

    def open(self, image_id: str) -> Image.Image:
        """An image in its full size; a LookupError if there is none of this id, else errors as of `open_image`."""
        row = self.row(image_id)
        if row is None:
            raise LookupError(f"{image_id!r} is not among the ingested images")
        return open_image(self.images, str(row["uri"]))

    def _ask(self, rest: str, values: list[Any]) -> list[dict[str, Any]]:
        return rows_of(self._connection, f"SELECT * FROM {self._table} {rest}", values)


def packed(load: Callable[[], Image.Image], side: int) -> Shown:
    """What `load` opens as a picture of at most side x side pixels, or why it cannot be shown."""
    try:
        picture = load()
    except BadImage as error:
        return Shown(problem=f"the image file cannot be shown: {error.reason}")
    except LookupError:
        return Shown(problem="not among the images")
    except OSError as error:
        return Shown(problem=f"the image file cannot be read: {error.strerror or type(error).__name__}")
    picture.thumbnail((side, side))
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=_QUALITY)
    return Shown(written.getvalue())
