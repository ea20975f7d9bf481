"""The images of a benchmark as features of a vision tower: each image is loaded once, each tower runs once."""

import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from data.artifact import refuse_other_bytes, set_aside, sync, with_checksum
from data.benchmarks import Benchmark
from data.config import Resources
from data.images import BadImage
from data.keys import digest
from models.encoders import Encoder

log = logging.getLogger(__name__)

HalfFloats = npt.NDArray[np.float16]

# Share of the free disk that stored features may take. Those of a ViT-g are 0.7 MB an image.
DISK_SHARE = 0.5


class Batch(NamedTuple):
    """Images by their places in `Pictures.ids`, ascending."""

    places: list[int]
    vision: Tensor
    """(B, P, W), on the encoder's device, in its tower's type, rounded to half precision."""


def image_ids(benchmark: Benchmark) -> list[str]:
    """Gallery and references, each once, the gallery first."""
    return list(dict.fromkeys([*benchmark.gallery, *(query.reference_id for query in benchmark.queries)]))


def images_digest(benchmark: Benchmark) -> str:
    """Identity of a benchmark's images, their ids and their files, whatever is asked about them."""
    files = benchmark.images or benchmark.digest
    return digest([benchmark.name, benchmark.split, files, image_ids(benchmark)])


class Pictures:
    """Gallery and references of one benchmark.

    The tower stays frozen in training, so the base checkpoint and all seeds share its features. Whether a checkpoint
    has the same tower is not believed but seen: its features of the first batch must equal the stored ones bit by bit;
    if they do not, its own features are computed and stored beside. Where the disk has no room they are computed anew
    for every checkpoint.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, resources: Resources) -> None:
        """Take the features that an interrupted run left in `folder`, if any."""
        self.benchmark = benchmark
        self.ids = image_ids(benchmark)
        self.place = {image: place for place, image in enumerate(self.ids)}
        self.references = np.array([self.place[query.reference_id] for query in benchmark.queries], dtype=np.intp)
        self.batch = resources.batch_size
        self.workers = resources.workers
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._whole: set[Path] = set()  # files whose bytes were compared with their checksum

    @property
    def towers(self) -> list[Path]:
        """Files of stored features, one per distinct vision tower."""
        return sorted(self._folder.glob("tower-*.npy"))

    def batches(self, encoder: Encoder, only: Sequence[int] | None = None) -> Iterator[Batch]:
        """The features of all images in the order of `ids`, the gallery first, or only of some places.

        Raises:
            data.images.BadImage: naming the benchmark's image that cannot be read.
            ValueError: if features are not finite in half precision.
        """
        start = list(range(len(self.ids)))[: self.batch]
        first = self._see(encoder, start, encoder.pixels(self._load(start)))
        stored = self._stored(first.vision)
        wanted = range(len(self.ids)) if only is None else only
        chunks = [list(wanted[at : at + self.batch]) for at in range(0, len(wanted), self.batch)]
        if stored is not None:
            for places in chunks:
                yield Batch(places, torch.from_numpy(stored[places]).to(first.vision))
        elif only is None:
            yield from self._computed(encoder, first, chunks[1:])
        else:
            yield from (self._see(encoder, places, pixels) for places, pixels in self._prepared(encoder, chunks))

    def _stored(self, like: Tensor) -> HalfFloats | None:
        """The stored features of the tower that sees the first images like this, if there are any."""
        for path in self.towers:
            try:
                stored: HalfFloats = np.load(path, mmap_mode="r")
                complete = stored.shape == (len(self.ids), *like.shape[1:])
                if complete and np.array_equal(stored[: len(like)], _half(like)):
                    if path not in self._whole:
                        refuse_other_bytes(path)  # reads all of it, once: so does what follows, for every checkpoint
                        self._whole.add(path)
                    return stored
            except (ValueError, EOFError) as error:  # damaged in its bytes, its header or its length
                log.warning("%s is damaged (%s) and set aside; it is computed again", set_aside(path), error)
        return None

    def _computed(self, encoder: Encoder, first: Batch, chunks: list[list[int]]) -> Iterator[Batch]:
        """All batches from the tower itself, stored on the way if there is room."""
        shape = (len(self.ids), *first.vision.shape[1:])
        target = self._folder / f"tower-{len(self.towers)}.npy"
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        store: HalfFloats | None = None
        if 2 * math.prod(shape) < DISK_SHARE * shutil.disk_usage(self._folder).free:
            store = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
        rest = (self._see(encoder, places, pixels) for places, pixels in self._prepared(encoder, chunks))
        for batch in chain([first], rest):
            if store is not None:
                store[batch.places] = _half(batch.vision)
            yield batch
        if store is not None:
            del store  # flushes
            sync(part)
            os.replace(part, with_checksum(target, part))

    def _prepared(self, encoder: Encoder, chunks: list[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Pixels of some batches, prepared by threads while the tower works on an earlier one."""
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: deque[tuple[list[int], Future[Tensor]]] = deque()
            for places in chunks:
                ahead.append((places, pool.submit(lambda those: encoder.pixels(self._load(those)), places)))
                if len(ahead) > self.workers:
                    those, pixels = ahead.popleft()
                    yield those, pixels.result()
            for those, pixels in ahead:
                yield those, pixels.result()

    def _see(self, encoder: Encoder, places: list[int], pixels: Tensor) -> Batch:
        """Run the tower over one batch. The features are rounded as if they had been stored."""
        vision = encoder.vision_of(pixels)
        half = vision.to(torch.float16)
        if not bool(torch.isfinite(half).all()):
            ids = [self.ids[place] for place in places]
            raise ValueError(
                f"benchmark {self.benchmark.name!r}: the vision tower's features of images {ids[0]!r} to {ids[-1]!r}"
                f" are not finite in half precision; greatest value {float(vision.abs().max()):g}"
            )
        return Batch(places, half.to(vision.dtype))

    def _load(self, places: list[int]) -> list[Image.Image]:
        images = []
        for image_id in (self.ids[place] for place in places):
            try:
                images.append(self.benchmark.load_image(image_id))
            except BadImage as error:
                error.add_note(f"This is image {image_id!r} of benchmark {self.benchmark.name!r}, which must be whole.")
                raise
        return images


def _half(vision: Tensor) -> HalfFloats:
    half: HalfFloats = vision.to("cpu", torch.float16).numpy()
    return half
