"""The tiny world: scenes of shapes that can be drawn, described, edited and compared exactly.

A scene is a background and one to three things on a 3 x 3 grid. Everything is deterministic from a seed, so that any
number of images, their captions, the edits between them and the true answers of a query exist without a file being
shipped. Some pairs of shape and colour (`HELD_OUT`) appear in benchmarks only: no training image or text contains them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
COLOURS = {
    "red": (214, 28, 36),
    "orange": (255, 138, 0),
    "yellow": (250, 222, 30),
    "green": (30, 150, 50),
    "cyan": (40, 205, 225),
    "blue": (30, 60, 215),
    "purple": (140, 40, 170),
}
SIZES = {"small": 16, "large": 28}  # side in pixels
TEXTURES = ("plain", "striped", "dotted")
POSITIONS = (
    "top left", "top center", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (18, 18, 18),
    "gray": (140, 140, 140),
    "brown": (110, 70, 35),
    "pink": (255, 190, 205),
}
DOMAIN: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "position": POSITIONS,
}
HELD_OUT = frozenset(
    {
        ("circle", "purple"), ("square", "cyan"), ("triangle", "orange"), ("star", "blue"),
        ("cross", "yellow"), ("diamond", "red"), ("ring", "green"), ("heart", "cyan"),
    }
)  # fmt: skip
IMAGE_SIZE = 96
MAX_THINGS = 3
FAMILY = 160  # images of a pool that are edits of one prototype, so that a rank window of [51, 60] lies inside a family


@dataclass(frozen=True)
class Thing:
    """One drawn thing; every field is a key of `DOMAIN`."""

    position: str
    shape: str
    colour: str
    size: str
    texture: str


@dataclass(frozen=True)
class Scene:
    """A picture's content; its things are kept in reading order.

    `jitter` moves pixels, never the meaning: two scenes mean the same when `same_as` says so.
    """

    background: str
    things: tuple[Thing, ...]
    jitter: int = 0

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.things, key=lambda thing: POSITIONS.index(thing.position)))
        object.__setattr__(self, "things", ordered)

    def same_as(self, other: Scene) -> bool:
        return self.background == other.background and self.things == other.things


def is_held_out(thing: Thing) -> bool:
    return (thing.shape, thing.colour) in HELD_OUT


def random_thing(rng: random.Random, free: Sequence[str], held_out: bool = False) -> Thing:
    """Draw one thing at one of the `free` positions; with `held_out` its shape and colour are a pair never trained
    on."""
    while True:
        shape, colour = rng.choice(SHAPES), rng.choice(DOMAIN["colour"])
        if ((shape, colour) in HELD_OUT) == held_out:
            break
    return Thing(rng.choice(list(free)), shape, colour, rng.choice(DOMAIN["size"]), rng.choice(TEXTURES))


def free_positions(scene: Scene) -> list[str]:
    taken = {thing.position for thing in scene.things}
    return [position for position in POSITIONS if position not in taken]


def random_scene(rng: random.Random, held_out: int = 0, things: int | None = None) -> Scene:
    """Draw a scene of `things` things (else one to three), `held_out` of them of a shape-colour pair never trained on.

    No two things of a drawn scene share shape and colour, so that "the red circle" names one of them.
    """
    count = things or rng.choices((1, 2, 3), (2, 4, 4))[0]
    scene = Scene(rng.choice(list(BACKGROUNDS)), (), rng.getrandbits(30))
    while len(scene.things) < count:
        thing = random_thing(rng, free_positions(scene), held_out=len(scene.things) < held_out)
        if all((thing.shape, thing.colour) != (other.shape, other.colour) for other in scene.things):
            scene = replace(scene, things=(*scene.things, thing))
    return scene
