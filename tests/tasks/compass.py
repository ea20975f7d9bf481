"""A world whose ranks can be read off: image k of the gallery points at 10 k degrees, a text "at 31" at 31 degrees.

A composed query follows its text. Cosines fall with the angle, so the nearest angle ranks first.
"""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from data.benchmarks import Benchmark, Query
from models.encoders import TextReading, TokenSet


class Compass:
    """An encoder of this world; the tower shows an image's number."""

    def __init__(self, digest: str = "weights") -> None:
        self.digest = digest
        self.truncations = 0

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.tensor([[[float(image.getpixel((0, 0))[0])]] for image in images])  # type: ignore[index]

    def vision_of(self, pixels: Tensor) -> Tensor:
        return pixels

    def vision(self, images: Sequence[Image.Image]) -> Tensor:
        return self.pixels(images)

    def image_tokens(self, vision: Tensor) -> TokenSet:
        return pointing(10 * vision[:, :, 0])

    def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
        return pointing(torch.tensor([[float(text.removeprefix("at "))] for text in texts]))

    def query_tokens(self, vision: Tensor, texts: Sequence[str]) -> TokenSet:
        return self.text_tokens(texts)

    def cut_texts(self, texts: Sequence[str]) -> int:
        return 0

    def save(self, folder: object) -> None:
        raise NotImplementedError


def pointing(degrees: Tensor) -> TokenSet:
    """(B, T) angles as (B, T, 2) tokens."""
    radians = degrees * math.pi / 180
    return TokenSet(torch.stack([radians.cos(), radians.sin()], dim=-1), torch.ones(degrees.shape, dtype=torch.bool))


class World:
    """Makes benchmarks of images i0, i1, ..., and notes which were loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def benchmark(self, *queries: Query, images: int = 6, **changes: object) -> Benchmark:
        given = {
            "name": "one",
            "split": "val",
            "gallery": tuple(f"i{number}" for number in range(images)),
            "queries": queries,
            "protocol": {"reference": "keep"},
            "metrics": ("recall@1",),
            "source": "the test",
            "licence": "none",
            "load_image": self.load_image,
            "digest": "one",
            "images": "files",
        }
        return Benchmark(**{**given, **changes})  # type: ignore[arg-type]

    def load_image(self, image_id: str) -> Image.Image:
        self.loaded.append(image_id)
        return Image.new("RGB", (10, 10), (int(image_id[1:]), 0, 0))
