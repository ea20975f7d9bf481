"""Perceptual hashes of images, computed once: 64 bits that survive another size, another compression, small touches.

The hash is imagehash's `phash`: which of the lowest 8 x 8 frequencies of a small grey copy lie above their median.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.images import BadImage
from data.progress import progress
from tasks.features import Features
from tasks.filters import World
from tasks.ingest import open_image
from tasks.store import home

Hashes = npt.NDArray[np.uint64]
_CHUNK = 2048  # images hashed between two writes


def phash(image: Image.Image) -> npt.NDArray[np.bool_]:
    """(64,) bits of an image."""
    import imagehash  # with scipy behind it, it takes a second to import

    bits: npt.NDArray[np.bool_] = imagehash.phash(image).hash.reshape(-1)
    return bits


def hashes(openers: Mapping[str, Callable[[], Image.Image]], workers: int, unit: str = "hashes") -> dict[str, int]:
    """Hashes of images as numbers, by their keys; they are kept below CIRQUE_HOME/features.

    Args:
        openers: what opens each image, by a key that is another whenever the image is: a digest of its bytes.
        workers: threads that open and hash.
        unit: what the progress bar counts.

    Raises:
        data.images.BadImage: if an image cannot be opened.
    """
    features = Features(home() / "features" / "phash-8x8")
    absent = features.missing(list(openers))
    todo = [key for key in openers if key in absent]
    with progress(len(openers), unit, len(openers) - len(todo)) as advance, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(todo), _CHUNK):
            some = todo[start : start + _CHUNK]
            bits = np.stack(list(pool.map(lambda key: phash(openers[key]()), some)))
            features.add(some, bits.astype(np.float16)[:, None, :])
            advance(len(some))
    if not openers:
        return {}
    packed = np.packbits(features.take(list(openers))[:, 0, :] > 0, axis=1).view(">u8")[:, 0]
    return dict(zip(openers, packed.tolist(), strict=True))


def ingested(world: World, image_ids: set[str]) -> dict[str, int]:
    """Hashes of ingested images by id.

    Raises:
        ValueError: naming an image that cannot be read any more.
    """
    wanted = {image_id: world.pictures[image_id] for image_id in sorted(image_ids)}

    def opener(image_id: str) -> Callable[[], Image.Image]:
        def opened() -> Image.Image:
            uri = wanted[image_id].uri
            try:
                return open_image(world.images, uri)
            except (BadImage, OSError) as error:
                raise ValueError(
                    f"image {image_id!r} at {uri} could be read when it was ingested, but not now ({error}); run again"
                    " with --rerun ingest"
                ) from error

        return opened

    of_bytes = {picture.sha256: opener(image_id) for image_id, picture in wanted.items()}
    found = hashes(of_bytes, world.resources.workers)
    return {image_id: found[picture.sha256] for image_id, picture in wanted.items()}


def distances(some: Hashes, others: Hashes) -> npt.NDArray[np.uint8]:
    """(A, B) numbers of differing bits, 0 to 64."""
    counted: npt.NDArray[np.uint8] = np.bitwise_count(some[:, None] ^ others[None, :])
    return counted
