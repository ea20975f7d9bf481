"""Images that are, by perceptual hash, in a benchmark's gallery: what is trained on them must not be measured on it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from data.benchmarks import Benchmark, load_benchmark, names
from data.images import BadImage, load_rgb
from data.keys import digest
from data.places import Place, place_digest
from data.sources.folder import Config as Folder
from data.sources.folder import open_source
from data.suggest import did_you_mean
from tasks.filters import Filter, Measured, Row, World
from tasks.filters._hashes import distances, hashes, ingested

log = logging.getLogger(__name__)

_BLOCK = 2**22  # pairs of hashes compared at a time
Openers = Mapping[str, tuple[str, Callable[[], Image.Image]]]
"""By key of the image: its name, for messages, and what opens it."""


class Config(Filter):
    """The value is the least number of bits, of 64, between the pair's images and any image of the galleries."""

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_least"
    on: bool = False
    threshold: float = Field(5, ge=0, le=64, description="fewest differing bits, of 64, to every gallery image")
    galleries: tuple[str, ...] = Field(
        (), description="folders of images, or benchmarks as name, name:split or name:split:root"
    )

    @model_validator(mode="after")
    def _has_galleries(self) -> "Config":
        if self.on and not self.galleries:
            raise ValueError("on, but there are no galleries; name folders or benchmarks, for example cirr:test1:/data")
        for gallery in self.galleries:
            name = gallery.partition(":")[0]
            if not Path(gallery).is_dir() and name not in names():
                raise ValueError(f"{gallery!r} is neither a folder nor a benchmark;{did_you_mean(name, names())}")
        return self

    def facts(self) -> dict[str, Any]:
        return {gallery: _identity(gallery) for gallery in self.galleries}

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        known = [[image for image in (row["reference_id"], row["target_id"]) if image is not None] for row in rows]
        nearest = self._nearest({image for images in known for image in images}, world)
        for images in known:
            image = min(images, key=lambda image: nearest[image][0])
            bits, other = nearest[image]
            yield Measured(float(bits), f"{image} differs from {other} in {bits} of 64 bits")

    def _nearest(self, image_ids: set[str], world: World) -> dict[str, tuple[int, str]]:
        """Of each image the least distance to a gallery image, and that one's name."""
        openers = {key: one for gallery in self.galleries for key, one in _images(gallery).items()}
        theirs = hashes(
            {key: opener for key, (_, opener) in openers.items()}, world.resources.workers, "gallery hashes"
        )
        ours = ingested(world, image_ids)
        names = [openers[key][0] for key in theirs]
        gallery, mine = (np.array(list(found.values()), dtype=np.uint64) for found in (theirs, ours))
        nearest: dict[str, tuple[int, str]] = {}
        step = max(1, _BLOCK // max(1, len(gallery)))
        for start, some in ((start, mine[start : start + step]) for start in range(0, len(mine), step)):
            differing = distances(some, gallery)
            places = differing.argmin(axis=1)
            for image_id, place, row in zip(list(ours)[start : start + step], places, differing, strict=True):
                nearest[image_id] = (int(row[place]), names[place])
        return nearest


def _identity(gallery: str) -> str:
    if Path(gallery).is_dir():
        return open_source(Folder(path=Path(gallery))).listing()
    return _benchmark(gallery).digest


def _images(gallery: str) -> Openers:
    """The images of a folder, those that can be read, or of a benchmark's gallery.

    Raises:
        ValueError: if there is none.
    """
    found: dict[str, tuple[str, Callable[[], Image.Image]]] = {}
    if Path(gallery).is_dir():
        unreadable = []
        for item in open_source(Folder(path=Path(gallery))).items():
            if item.location is None or not _opens(item.location):
                unreadable.append(item.image_id)
                continue
            found[place_digest(item.location)] = (f"{gallery}: {item.image_id}", partial(load_rgb, item.location))
        if unreadable and found:
            log.warning(
                "contamination: in gallery %s files without a readable image were not compared: %d, for example %s",
                gallery, len(unreadable), unreadable[0],
            )  # fmt: skip
    else:
        benchmark = _benchmark(gallery)
        for image_id in benchmark.gallery:
            opener = partial(benchmark.load_image, image_id)
            found[digest([benchmark.digest, image_id])] = (f"{gallery}: {image_id}", opener)
    if not found:
        raise ValueError(f"contamination: gallery {gallery!r} holds no readable image")
    return found


def _opens(path: Place) -> bool:
    try:
        load_rgb(path)
    except BadImage:
        return False
    return True


def _benchmark(gallery: str) -> Benchmark:
    name, _, rest = gallery.partition(":")
    split, _, root = rest.partition(":")
    try:
        return load_benchmark(name, split or "val", **({"root": root} if root else {}))
    except TypeError as error:
        if root:
            raise
        raise ValueError(
            f"contamination: gallery {gallery!r} has no root; give the folder that holds the benchmark:"
            f" {name}:{split or 'val'}:FOLDER"
        ) from error
