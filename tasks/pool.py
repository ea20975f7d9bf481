"""The ingested images as what a model may be asked about, looked up in the table without an object per image."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial

import pyarrow as pa
from PIL import Image

from data.artifact import Artifact
from data.places import content_digests
from data.schemas import IMAGES
from models.backends import Engine
from tasks.ingest import open_image
from tasks.requests import Picture
from tasks.rows import read_rows

# Pictures kept after they were looked up: a chunk asks for each of its images several times.
_KEPT = 1024
_COLUMNS = ("image_id", "uri", "width", "height")
_DIGESTS = ("sha256", "stored_sha256")


class Pool(Mapping[str, Picture]):
    """Pictures by image id, made as they are looked up: memory holds the Arrow table and the latest thousand."""

    def __init__(self, images: Artifact, engine: Engine) -> None:
        """Read the table.

        Args:
            images: the artifact of `ingest`; its ids ascend.
            engine: `image_side` limits what is seen.
        """
        self._images, self._side = images, engine.image_side
        names = [name for name in IMAGES.names if name in (*_COLUMNS, *_DIGESTS)]
        # Some rows at a time: decoding columns whole takes many times the memory of what is kept of them.
        table = pa.Table.from_batches(read_rows(images.file("images.parquet"), IMAGES, names))
        self._columns = {name: table[name].combine_chunks() for name in _COLUMNS}
        self._digests = content_digests(table).combine_chunks()
        self._made = lru_cache(_KEPT)(self._make)

    def __getitem__(self, image_id: str) -> Picture:
        return self._made(image_id)

    def _make(self, image_id: str) -> Picture:
        place = self._place(image_id)
        if place is None:
            raise KeyError(image_id)
        uri, width, height = (self._columns[name][place].as_py() for name in _COLUMNS[1:])
        sha256 = self._digests[place].as_py()
        return Picture(
            # Another limit on the size does not make another image of one that is below both.
            digest=sha256 if max(width, height) <= self._side else f"{sha256}@{self._side}",
            load=partial(_seen, self._images, uri, self._side),
        )

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._place(image_id) is not None

    def __iter__(self) -> Iterator[str]:
        return (value.as_py() for value in self._columns["image_id"])

    def __len__(self) -> int:
        return len(self._columns["image_id"])

    def _place(self, image_id: str) -> int | None:
        ids = self._columns["image_id"]
        place = bisect_left(ids, image_id, key=_text)
        return place if place < len(ids) and ids[place].as_py() == image_id else None


def _text(value: pa.StringScalar) -> str:
    text: str = value.as_py()
    return text


def _seen(images: Artifact, uri: str, side: int) -> Image.Image:
    image = open_image(images, uri)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return image
