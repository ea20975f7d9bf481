"""Features of images, computed once: part files filed under each image's bytes, not under its name.

What is in a folder of features was computed by one network in one way; the folder's name has to say by which. Parts
are written whole and never changed, so a killed run loses the part in hand, and new images cost only themselves.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from data.artifact import TEMPORARY, Artifact, DamagedFile, refuse_other_bytes, set_aside
from data.config import Resources
from data.images import BadImage
from data.keys import digest
from data.places import content_digests, is_own, place_digest, place_of
from data.progress import progress
from data.schemas import IMAGES
from data.tokens import read_tokens, write_tokens
from tasks.ingest import open_image
from tasks.room import require_batch, require_disk

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from models.encoders import Encoder, ImageEncoder

log = logging.getLogger(__name__)

HalfFloats = npt.NDArray[np.float16]

# A part is written after this many bytes or seconds, whichever comes first: the most that a kill costs.
PART_BYTES = 64 * 2**20
PART_SECONDS = 15.0


class Picture(NamedTuple):
    """An ingested image: its id, where its bytes are, and their digest, under which its features are filed.

    The digest is of the bytes as they are stored, which may be a resized copy of the original's.
    """

    image_id: str
    uri: str
    sha256: str


def pictures(images: Artifact) -> list[Picture]:
    """The rows of an ingested table, in the order of their ids."""
    table = images.read(IMAGES, "images.parquet")
    columns = (table["image_id"], table["uri"], content_digests(table))
    return [Picture(*row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]


class Features:
    """A folder of part files, each with (N, T, D) float16 features of N images.

    Several processes may add to it at once; each sees what was there when it opened the folder, and its own parts.
    Damaged parts are set aside, and what they held is missing. Structure and keys are looked at when the folder is
    opened; the bytes of a part are compared with its checksum before anything of it is used, which reads it once. Parts
    of older stores have no checksum.

    Attributes:
        folder: where the parts lie.
        shape: (T, D), or None while the folder is empty.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make it.

        Raises:
            ValueError: if a part's features have another shape than the others'.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._parts: list[tuple[Path, HalfFloats]] = []
        self._place: dict[str, tuple[int, int]] = {}
        self.shape: tuple[int, int] | None = None
        for path in sorted(folder.glob("*.arrow")):
            self._open(path)
        self._unchecked = set(range(len(self._parts)))
        for leftover in folder.glob(TEMPORARY):  # of a killed process; a living one's is younger
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink(missing_ok=True)

    def missing(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that have no features yet, or only damaged ones."""
        self._check(keys)
        return {key for key in keys if key not in self._place}

    def add(self, keys: Sequence[str], features: HalfFloats) -> None:
        """Write a part: (N, T, D) features of N distinct keys."""
        order = np.argsort(np.array(keys, dtype=object))
        ids = [keys[row] for row in order]
        path = self.folder / f"{_name(ids)}.arrow"
        self._open(write_tokens(path, ids, features[order], checked=True))

    def take(self, keys: Sequence[str]) -> HalfFloats:
        """A copy of the features of some keys, (N, T, D), in their order.

        Raises:
            KeyError: naming one that has none.
            DamagedFile: if their part is damaged, and `missing` was not asked before.
        """
        if self.shape is None:
            raise KeyError(f"no features in {self.folder}")
        if damaged := self._check(keys):
            raise DamagedFile(f"{damaged[0]}; run the same command again, which computes it anew", damaged[0].path)
        taken = np.empty((len(keys), *self.shape), dtype=np.float16)
        for row, key in enumerate(keys):
            part, place = self._place[key]
            taken[row] = self._parts[part][1][place]
        return taken

    def _check(self, keys: Sequence[str]) -> list[DamagedFile]:
        """Compare the parts that hold some keys with their checksums; what was found damaged and is set aside."""
        found = []
        for part in sorted({self._place[key][0] for key in keys if key in self._place} & self._unchecked):
            self._unchecked.remove(part)
            path, _ = self._parts[part]
            try:
                refuse_other_bytes(path)
                self._parts[part] = (path, read_tokens(path)[1])  # another process may have made the file anew
                continue
            except FileNotFoundError:  # another process set it aside
                found.append(DamagedFile(f"{path} was damaged and is set aside", path))
            except DamagedFile as error:
                _told(error)
                found.append(error)
            self._place = {key: place for key, place in self._place.items() if place[0] != part}
        return found

    def _open(self, path: Path) -> None:
        try:
            keys, array = read_tokens(path)
            if not path.name.startswith(_name(keys)):
                raise DamagedFile(f"{path} holds features of other images than were written", path)
        except FileNotFoundError:  # another process set it aside
            return
        except DamagedFile as error:
            _told(error)
            return
        shape = (array.shape[1], array.shape[2])
        if self.shape not in (None, shape):
            raise ValueError(f"{path} holds features of shape {shape}, the other parts of {self.shape}; remove it")
        self.shape = shape
        self._place.update((key, (len(self._parts), row)) for row, key in enumerate(keys))
        self._parts.append((path, array))


def _name(keys: Sequence[str]) -> str:
    """What the name of the part with these keys begins with."""
    return digest(keys)[:20]


def _told(error: DamagedFile) -> None:
    """Set a damaged part aside and say so."""
    log.warning("%s; it is set aside as %s, and its features are computed again", error, set_aside(error.path).name)


class FreshFeatures:
    """The same as `Features`, computed anew whenever they are asked for: no disk, and the price of the tower.

    Attributes:
        encoder: whose vision tower; it is left in evaluation mode.
    """

    def __init__(self, images: Artifact, rows: Sequence[Picture], encoder: "Encoder", resources: Resources) -> None:
        self._images, self.encoder = images, encoder
        self._rows = {row.sha256: row for row in rows}
        self._pool = ThreadPoolExecutor(resources.workers)

    def take(self, keys: Sequence[str]) -> HalfFloats:
        """Features of some keys, (N, T, D), rounded as stored ones are."""
        self.encoder.eval()
        wanted = [self._rows[key] for key in dict.fromkeys(keys)]
        images = list(self._pool.map(lambda row: _read(self._images, row), wanted))
        found = _forward(self.encoder.vision_of, self.encoder.pixels(images), wanted)
        place = {row.sha256: number for number, row in enumerate(wanted)}
        return found[[place[key] for key in keys]]


class Pixels:
    """In the place of features, for a tower that is trained: images, prepared anew whenever they are asked for."""

    def __init__(self, images: Artifact, rows: Sequence[Picture], encoder: "Encoder", resources: Resources) -> None:
        self._images, self._encoder = images, encoder
        self._rows = {row.sha256: row for row in rows}
        self._pool = ThreadPoolExecutor(resources.workers)

    def take(self, keys: Sequence[str]) -> npt.NDArray[np.float32]:
        """Pixels of some keys, (N, ...), in their order."""
        shown = list(self._pool.map(lambda key: _read(self._images, self._rows[key]), keys))
        found: npt.NDArray[np.float32] = self._encoder.pixels(shown).numpy()
        return found


def compute(
    features: Features,
    images: Artifact,
    rows: Sequence[Picture],
    encoder: "ImageEncoder",
    forward: "Callable[[Tensor], Tensor]",
    resources: Resources,
    unit: str = "images",
) -> int:
    """Compute the features that are missing.

    Images are read and prepared by `resources.workers` threads while the network works on the batch before.

    Args:
        features: where they are looked up and filed.
        images: the artifact that `rows` come from.
        rows: the images that are wanted; those with the same bytes are computed once.
        encoder: prepares the pixels.
        forward: from prepared pixels of B images to (B, T, D) features; run without gradients.
        resources: batch size and workers.
        unit: what the progress bar counts.

    Returns:
        How many were computed.

    Raises:
        ValueError: naming an image that cannot be read any more, changed, or has features that are not finite.
        OSError, MemoryError: before the first batch, if the disk has no room for all, or the memory none for a batch.
    """
    wanted = {row.sha256: row for row in rows}
    absent = features.missing(list(wanted))
    todo = [row for key, row in wanted.items() if key in absent]
    batches = (todo[start : start + resources.batch_size] for start in range(0, len(todo), resources.batch_size))
    held: list[tuple[list[str], HalfFloats]] = []
    since = time.monotonic()
    if todo:
        _require_room(features, len(todo), [_read(images, row) for row in todo[:2]], encoder, forward, resources, unit)

    def flush() -> None:
        if held:
            features.add([key for keys, _ in held for key in keys], np.concatenate([array for _, array in held]))
            held.clear()

    with progress(len(rows), unit, len(rows) - len(todo)) as advance, ThreadPoolExecutor(resources.workers) as pool:

        def prepare(batch: list[Picture]) -> "tuple[list[Picture], Future[Tensor]]":
            return batch, pool.submit(lambda: encoder.pixels([_read(images, row) for row in batch]))

        ahead = deque(prepare(batch) for batch in islice(batches, resources.workers + 1))
        while ahead:
            batch, pixels = ahead.popleft()
            array = _forward(forward, pixels.result(), batch)
            held.append(([row.sha256 for row in batch], array))
            ahead.extend(prepare(following) for following in islice(batches, 1))
            if sum(array.nbytes for _, array in held) >= PART_BYTES or time.monotonic() - since >= PART_SECONDS:
                flush()
                since = time.monotonic()
            advance(len(batch))
    flush()
    return len(todo)


def _require_room(
    features: Features,
    count: int,
    some: "Sequence[Image.Image]",
    encoder: "ImageEncoder",
    forward: "Callable[[Tensor], Tensor]",
    resources: Resources,
    unit: str,
) -> None:
    """Ask for the room that `count` images take, as found by computing the features of `some`: one or two."""
    import torch

    from models.footprint import forward_bytes

    pixels = {number: encoder.pixels(some[:number]) for number in range(1, len(some) + 1)}
    with torch.inference_mode():
        first = forward(pixels[1])
    require_disk(features.folder, 2 * first.numel() * count, f"the features of {count:,} {unit}")
    if len(some) > 1:
        # Batches that wait beside the one in hand are in this memory even if the network is not: a GPU, which says
        # itself when it is full, is not asked.
        waiting = (resources.workers + 1) * (pixels[2].nbytes - pixels[1].nbytes)
        each = forward_bytes(lambda rows: forward(pixels[rows])) if first.device.type == "cpu" else 0
        require_batch(min(resources.batch_size, count), each + waiting, unit, "resources.batch_size")


def _read(images: Artifact, row: Picture) -> "Image.Image":
    """Decode an image, and make sure that it is still the one that was ingested: its features are filed under its
    digest. What the artifact carries itself is checked with it."""
    again = "run again with --rerun ingest"
    try:
        if not is_own(row.uri) and place_digest(place_of(row.uri, images.path)) != row.sha256:
            raise ValueError(f"image {row.image_id!r} at {row.uri} has changed since it was ingested; {again}")
        return open_image(images, row.uri)
    except (BadImage, OSError) as error:
        raise ValueError(
            f"image {row.image_id!r} at {row.uri} could be read when it was ingested, but not now ({error}); {again}"
        ) from error


def _forward(forward: "Callable[[Tensor], Tensor]", pixels: "Tensor", batch: Sequence[Picture]) -> HalfFloats:
    import torch

    with torch.inference_mode():
        array: HalfFloats = forward(pixels).to(torch.float16).cpu().numpy()
    finite = np.isfinite(array).all(axis=(1, 2))
    if not finite.all():
        wrong = batch[int(np.flatnonzero(~finite)[0])]
        raise ValueError(
            f"the features of image {wrong.image_id!r} at {wrong.uri} are not finite numbers in half precision; if the"
            " network ran in float16, try dtype=float32, else look at the checkpoint"
        )
    return array
