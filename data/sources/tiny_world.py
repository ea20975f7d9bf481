"""The tiny world as a source: a pool of drawn scenes, image i the same in a pool of any size."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import PositiveInt

from data.config import StageConfig
from data.keys import digest
from data.sources import Item
from data.tiny_drawing import png
from data.tiny_random_edits import pool, pool_scene


class Config(StageConfig):
    """Which images to draw."""

    images: PositiveInt = 3000
    seed: int = 0


class TinyWorld:
    """The first `images` scenes of a seed's pool, as PNG payloads; no label, no caption."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def listing(self) -> str:
        """Digest of the parameters and of how the first scene is drawn."""
        return digest({"world": self.config.model_dump(), "first": png(pool_scene(0, self.config.seed)).hex()})

    def items(self) -> Iterator[Item]:
        for index, scene in enumerate(pool(self.config.images, self.config.seed)):
            yield Item(f"{index:07d}", location=None, payload=png(scene), label=None, caption=None)

    def __len__(self) -> int:
        return self.config.images


def open_source(config: Config) -> TinyWorld:
    return TinyWorld(config)
