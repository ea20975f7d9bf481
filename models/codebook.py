"""Centroid interaction: the similarity with every candidate token replaced by its nearest of K centroids.

The second of two ways to find candidates, indifferent to which slot of an image a token stands in. After PLAID
(Santhanam et al., arXiv 2205.09707), without its residuals: candidates are scored exactly afterwards.
"""

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.ranking import STRIP_BYTES, TokenSets
from models.scan import scan
from models.similarity import Direction

Codes = npt.NDArray[np.uint16]

ROUNDS = 8
"""Of k-means; more changed no agreement."""
LEARNT_FROM = 64
"""Tokens per centroid that the centroids are learnt from."""
MOST = 65_535
"""Centroids that a code of 16 bits can name beside the one for tokens that do not count."""


def learn(sets: TokenSets, centroids: int, seed: int) -> Tensor:
    """(K, D) float32 unit centroids of the tokens; K is smaller where there are not 39 tokens for each."""
    random = np.random.default_rng(seed)
    per_image = sets.tokens.shape[1]
    images = min(len(sets), -(-LEARNT_FROM * min(centroids, MOST) // per_image))
    sample = sets.subset(np.sort(random.choice(len(sets), images, replace=False))).unit(slice(0, images))
    tokens = sample.tokens.reshape(-1, sample.tokens.shape[2])
    if sample.mask is not None:
        tokens = tokens[sample.mask.reshape(-1)]
    wanted = max(1, min(centroids, MOST, len(tokens) // 39))
    means = faiss.Kmeans(
        tokens.shape[1], wanted, niter=ROUNDS, seed=seed, spherical=True, max_points_per_centroid=LEARNT_FROM
    )
    means.train(tokens.numpy())
    return torch.from_numpy(np.array(means.centroids))


def encode(sets: TokenSets, centroids: Tensor, path: Path, advance: Callable[[int], None]) -> Codes:
    """Write the (N, T) nearest centroids to `path`, a .npy file, strip by strip; K stands for a token that does not
    count. Returns them memory-mapped."""
    tokens, dim = sets.tokens.shape[1:]
    index = faiss.IndexFlatIP(dim)
    index.add(centroids.numpy())
    shape = (len(sets), tokens)
    codes: Codes = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)  # type: ignore[no-untyped-call]
    step = max(1, STRIP_BYTES // (4 * tokens * dim))
    for start in range(0, len(sets), step):
        unit = sets.unit(slice(start, start + step))
        nearest = index.search(unit.tokens.reshape(-1, dim).numpy(), 1)[1].reshape(-1, tokens)
        if unit.mask is not None:
            nearest[~unit.mask.numpy()] = len(centroids)
        codes[start : start + step] = nearest
        advance(len(unit.tokens))
    return codes


def interaction(tokens: Tensor, mask: Tensor | None, centroids: Tensor, codes: Codes, direction: Direction) -> Tensor:
    """(N,) float32, larger is closer: what the similarity of one image with every other is about.

    Args:
        tokens: (T, D), L2-normalised.
        mask: (T,) bool, or None where all count.
        centroids: (K, D).
        codes: (N, S) of `encode`.
        direction: as of `models.similarity`.
    """
    table = tokens @ centroids.T
    if mask is not None:
        table = table[mask]
    if direction == "candidate":
        # The mean over a candidate's tokens of the best of ours depends on their centroids alone.
        best = torch.cat([table.amax(dim=0), torch.zeros(1)]).numpy()
        counting = np.count_nonzero(codes != len(centroids), axis=1)
        return torch.from_numpy(best[codes].sum(axis=1) / counting)
    low, high = float(table.min()), float(table.max())
    steps = (table - low) * (254 / max(high - low, 1e-9)) + 1  # 0 is left for tokens that do not count
    rows = torch.zeros(len(centroids) + 1, len(table), dtype=torch.uint8)
    rows[:-1] = steps.round().T.to(torch.uint8)
    return scan(rows, codes)
