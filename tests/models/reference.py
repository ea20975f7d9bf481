"""The similarity and the ranking in plain float64: what everything faster must equal."""

import numpy as np
import numpy.typing as npt


def score(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> np.float32:
    """s(one, other) of two (T, D) and (S, D) token sets, float64 rounded to float32."""
    a = one.astype(np.float64) / np.linalg.norm(one.astype(np.float64), axis=1, keepdims=True)
    b = other.astype(np.float64) / np.linalg.norm(other.astype(np.float64), axis=1, keepdims=True)
    return np.float32((a @ b.T).max(axis=1).mean())
