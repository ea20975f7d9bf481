"""The case on which LAVIS and Cirque are compared: sizes, weights and inputs that both sides draw from NumPy alone.

The LAVIS side runs in its own environment and cannot import the rest of this repository, so nothing but NumPy may be
imported here.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

WIDTH, HEADS, IMAGE, PATCH = 32, 4, 28, 14
BLOCKS = {"eva": 3, "clip": 2}
MLP_RATIO = 4.3637  # create_eva_vit_g's
HIDDEN, LAYERS, INTERMEDIATE, VOCABULARY, POSITIONS = 48, 4, 64, 40, 24
QUERIES, DIM = 5, 16
TOWERS = ("eva", "clip")
# Token ids of three texts of different lengths, [CLS] 2, [SEP] 3, padding 0.
IDS = np.array([[2, 11, 12, 13, 3, 0, 0, 0], [2, 21, 22, 23, 24, 25, 26, 3], [2, 31, 3, 0, 0, 0, 0, 0]], dtype=np.int64)
MASK = (IDS != 0).astype(np.int64)


def pixels() -> Array:
    """(3, 3, 28, 28) prepared images."""
    return np.random.default_rng(7).standard_normal((3, 3, IMAGE, IMAGE)).astype(np.float32)


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Weights drawn by name, so that the order and the other names do not matter; large enough to matter themselves."""
    weights = {}
    for name, shape in shapes.items():
        drawn = np.random.default_rng([1, zlib.crc32(name.encode())]).standard_normal(shape)
        norm = name.endswith(".weight") and len(shape) == 1
        weights[name] = (1 + 0.2 * drawn if norm else 0.2 * drawn).astype(np.float32)
    return weights
