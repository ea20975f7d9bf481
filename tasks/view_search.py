"""A retriever to be tried: a checkpoint over a gallery, opened once, and the reason of each score."""

import hashlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.artifact import Artifact
from data.config import Resources
from data.images import BadImage, load_rgb
from models.checkpoints import resolve
from models.encoders import Encoder
from tasks.ingest import open_image
from tasks.search import (
    Gallery,
    Hit,
    composed,
    encoded_gallery,
    hits,
    load_encoder,
    open_gallery,
    place_of,
    refuse_lone,
)
from tasks.trained import checkpoint_of

if TYPE_CHECKING:  # torch takes seconds to import
    from models.ranking import TokenSets

MOST_BYTES = 10 * 2**20
"""Of an uploaded image."""
_OVERLAY = 256


@dataclass(frozen=True)
class Reference:
    """The image that somebody holds: its pixels, and its row in the gallery, or -1."""

    name: str
    image: Image.Image
    place: int


@dataclass(frozen=True)
class Answer:
    """What was found for one query.

    Attributes:
        reference, text: what was asked.
        hits: best first.
        excluded: whether the reference was left out of the gallery.
        seconds: composing the query and ranking the gallery.
        query: the query's tokens.
    """

    reference: Reference
    text: str
    hits: list[Hit]
    excluded: bool
    seconds: float
    query: "TokenSets"


@dataclass(frozen=True)
class Match:
    """One token of a query: its nearest token of the found image, and their cosine."""

    token: int
    image_token: int
    cosine: float


class Retriever:
    """A checkpoint and a gallery, ready to answer; one query at a time.

    Attributes:
        checkpoint: as it was named.
        gallery: images and tokens.
    """

    def __init__(self, checkpoint: str, images: Artifact | None, folder: Path | None) -> None:
        """Open a gallery: encode what is not encoded yet, which may take long, and read it once.

        Args:
            checkpoint: a name, a folder, a Hugging Face id, or RUN or RUN/seed-1.
            images: the gallery, unless a folder is given.
            folder: of images.

        Raises:
            OSError, LookupError, ValueError: if the checkpoint or the gallery cannot be used.
        """
        if folder is None and images is None:
            raise ValueError("a gallery is a folder of images or the images of some triplets; neither was given")
        self.checkpoint = checkpoint
        resources = Resources()
        name = checkpoint_of(checkpoint)
        resolve(name)  # a name that leads nowhere is told before torch is imported and images are read
        if folder is not None:
            self.gallery: Gallery = open_gallery(folder, name, resources)
        else:
            assert images is not None
            self.gallery = encoded_gallery(images, name, resources)
        from models.lone import LoneRanker

        self._encoder: Encoder = load_encoder(name, "auto")
        self._ranker: LoneRanker = LoneRanker(self.gallery.sets)
        self._lock = threading.Lock()
        self._rows = {row.image_id: place for place, row in enumerate(self.gallery.rows)}

    def pick(self, image_id: str) -> Reference:
        """An image of the gallery as the reference; LookupError, OSError or BadImage if it cannot be had."""
        if image_id not in self._rows:
            raise LookupError(f"{image_id!r} is not in the gallery")
        place = self._rows[image_id]
        return Reference(image_id, open_image(self.gallery.images, self.gallery.rows[place].uri), place)

    def take(self, name: str, data: bytes) -> Reference:
        """An uploaded file as the reference.

        Raises:
            ValueError: if it is too large or no image.
        """
        if len(data) > MOST_BYTES:
            raise ValueError(f"{name} has {len(data):,} bytes; an image of at most {MOST_BYTES:,} is taken")
        try:
            image = load_rgb(data)
        except BadImage as error:
            raise ValueError(f"{name} cannot be used: {error}; give an image file") from error
        return Reference(name, image, place_of(self.gallery, hashlib.sha256(data).hexdigest()))

    def search(self, reference: Reference, text: str, k: int, keep_reference: bool) -> Answer:
        """The k images nearest to the reference changed as the text says.

        Raises:
            ValueError: if the text is empty, or nothing but the reference is in the gallery.
        """
        if not text.strip():
            raise ValueError("the text is empty; say what is to be changed, such as 'make it red'")
        barred = -1 if keep_reference else reference.place
        refuse_lone(self.gallery, barred)
        with self._lock:
            started = time.perf_counter()
            query = composed(self._encoder, reference.image, text)
            ranked = self._ranker.top_k(query, k, barred)
            seconds = time.perf_counter() - started
        return Answer(reference, text, hits(self.gallery, ranked), barred >= 0, seconds, query)

    def why(self, answer: Answer, hit: Hit) -> list[Match]:
        """The matches whose cosines the score of a hit is the mean of, the strongest first."""
        from models.lone import best_matches

        places, cosines = best_matches(answer.query, self.gallery.sets.subset(np.array([self._rows[hit.image_id]])))
        found = [Match(*one) for one in zip(range(len(places)), places, cosines, strict=True)]
        return sorted(found, key=lambda match: -match.cosine)

    def overlays(self, answer: Answer, hit: Hit) -> tuple[list[Image.Image], list[Image.Image]] | None:
        """Where each token of the query looks in the reference, and each token of the hit in its image.

        None for a network whose tokens look nowhere; OSError or BadImage if the hit's image cannot be read.
        """
        import torch

        from models.encoders.looking import looking

        found = []
        shown = self.pick(hit.image_id).image
        with self._lock, torch.inference_mode():
            for image, text in ((answer.reference.image, answer.text), (shown, None)):
                weights = looking(self._encoder, self._encoder.vision([image]), text)
                if weights is None:
                    return None
                found.append([overlaid(image, one.numpy()) for one in weights])
        return found[0], found[1]


def overlaid(image: Image.Image, weights: npt.NDArray[np.float32]) -> Image.Image:
    """An image darkened where the (H, W) weights are low; squashed to a square, as the network sees it."""
    square = image.convert("RGB").resize((_OVERLAY, _OVERLAY), Image.Resampling.BICUBIC)
    spread = weights - weights.min()
    scaled = np.asarray(255 * spread / (spread.max() or 1.0), dtype=np.uint8)
    mask = Image.fromarray(scaled).resize(square.size, Image.Resampling.BICUBIC)
    dark = Image.blend(square, Image.new("RGB", square.size, (16, 20, 26)), 0.82)
    return Image.composite(square, dark, mask)
