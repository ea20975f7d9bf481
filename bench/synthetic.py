"""Synthetic token sets for measurements without a network's weights.

Two kinds, because they are hard in different ways: "aligned" tokens keep to their slot, as a Q-Former's queries may
learn to; "scattered" ones are bags of objects in any order, so that no slot of one image answers to the same slot of
another.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["aligned", "scattered"]
LATENT = 96
"""Dimensions in which images differ, with spreads that fall as a power law."""
OBJECTS = 4000
"""Prototypes that scattered tokens are drawn from, with frequencies that fall as a power law."""
CHUNK = 1024


def synthetic(count: int, tokens: int, dim: int, kind: Kind, seed: int = 0) -> npt.NDArray[np.float16]:
    """(count, tokens, dim) float16, L2-normalised; a larger count keeps the first images as they are."""
    result = np.empty((count, tokens, dim), dtype=np.float16)
    for start, part in zip(range(0, count, CHUNK), chunks(count, tokens, dim, kind, seed), strict=True):
        result[start : start + CHUNK] = part
    return result


def chunks(count: int, tokens: int, dim: int, kind: Kind, seed: int = 0) -> Iterator[npt.NDArray[np.float16]]:
    """The same, CHUNK images at a time, the last part with what is left."""
    draw = _aligned if kind == "aligned" else _scattered
    make = draw(tokens, dim, np.random.default_rng([seed, 0]))
    for start in range(0, count, CHUNK):
        values = make(np.random.default_rng([seed, 1, start]))
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
        yield values[: count - start].astype(np.float16)


class _aligned:  # noqa: N801  (both are used as functions that keep their world)
    """Slot means, plus a linear view of the image's latent per slot, plus noise; images come in nested clusters."""

    def __init__(self, tokens: int, dim: int, world: np.random.Generator) -> None:
        self.spread = np.arange(1, LATENT + 1, dtype=np.float32) ** -0.5
        self.means = world.standard_normal((tokens, dim), dtype=np.float32)
        self.views = world.standard_normal((tokens, LATENT, dim), dtype=np.float32) / np.sqrt(np.float32(LATENT))
        self.centres = world.standard_normal((300, LATENT), dtype=np.float32)

    def __call__(self, random: np.random.Generator) -> npt.NDArray[np.float32]:
        centre = self.centres[_zipf(random, CHUNK, len(self.centres))]
        latent = (centre + 0.8 * random.standard_normal(centre.shape, dtype=np.float32)) * self.spread * 4
        shown = np.einsum("nl,tld->ntd", latent, self.views, optimize=True)
        noise: npt.NDArray[np.float32] = random.standard_normal(shown.shape, dtype=np.float32)
        noise *= 0.6
        noise += self.means + shown
        return noise


class _scattered:  # noqa: N801
    """Objects with a look of their own, in any order; the objects of an image come from one of 200 themes."""

    def __init__(self, tokens: int, dim: int, world: np.random.Generator) -> None:
        self.tokens = tokens
        self.objects = world.standard_normal((OBJECTS, dim), dtype=np.float32)
        self.themes = np.stack([world.choice(OBJECTS, 150, replace=False) for _ in range(200)])

    def __call__(self, random: np.random.Generator) -> npt.NDArray[np.float32]:
        themes = self.themes[_zipf(random, CHUNK, len(self.themes))]
        chosen = np.take_along_axis(themes, _zipf(random, (CHUNK, self.tokens), themes.shape[1]), axis=1)
        shown = self.objects[chosen]
        noise: npt.NDArray[np.float32] = random.standard_normal(shown.shape, dtype=np.float32)
        noise *= 0.8
        noise += shown
        return noise


def _zipf(random: np.random.Generator, size: int | tuple[int, int], choices: int) -> npt.NDArray[np.int64]:
    weights = 1 / np.arange(1, choices + 1)
    return random.choice(choices, size=size, p=weights / weights.sum())
