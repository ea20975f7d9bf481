"""The inner loop of centroid interaction."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK = 4096
"""Images whose running maxima stay in the processor's cache."""


def scan(rows: Tensor, codes: npt.NDArray[np.uint16]) -> Tensor:
    """(N,) float32: the sum over columns of the largest entry among the rows that an image's codes name.

    Args:
        rows: (K, T) uint8, one row per code.
        codes: (N, S) uint16.
    """
    return _torch_scan(rows, codes)


def _torch_scan(rows: Tensor, codes: npt.NDArray[np.uint16]) -> Tensor:
    sums = torch.empty(len(codes))
    for start in range(0, len(codes), BLOCK):
        places = torch.from_numpy(codes[start : start + BLOCK].astype(np.int32).T.copy())
        best = rows.index_select(0, places[0])
        for place in places[1:]:
            torch.maximum(best, rows.index_select(0, place), out=best)
        sums[start : start + BLOCK] = best.sum(dim=1, dtype=torch.int32)
    return sums
