"""Nearest neighbours of one vector per image, by FAISS: the first of two ways to find candidates.

The vector is the image's tokens laid end to end, reduced to a few dimensions. Where tokens keep to their slot, the
inner product of two such vectors is close to the similarity; where they do not, `models.codebook` finds what this
misses.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt
import torch

from models.ranking import STRIP_BYTES, Integers, TokenSets

Kind = Literal["flat", "ivf", "pq"]
Floats = npt.NDArray[np.float32]

SAMPLE = 8192
"""Images that the projection is learnt from: as many as there are dimensions in 32 tokens of 256."""
LIST_SAMPLE = 64
"""Vectors per inverted list that the lists are learnt from."""
PROBED = 4
"""One list of so many is searched. Fixed, so that asking for more candidates only adds candidates."""
GPU_MOST = 2048
"""Most neighbours that FAISS finds, and most lists it probes, on a GPU (FAISS issue 4008)."""


def projection(sets: TokenSets, dim: int, seed: int) -> torch.Tensor | None:
    """(T * D, dim) directions that keep most of the inner products; None where the tokens are no longer than that.

    They are not centred: the mean decides inner products too.
    """
    tokens, width = sets.tokens.shape[1:]
    if tokens * width <= dim:
        return None
    count = min(SAMPLE, len(sets))
    chosen = np.sort(np.random.default_rng(seed).choice(len(sets), count, replace=False))
    flat = torch.cat([_flat(sets, chosen[at : at + 1024]) for at in range(0, count, 1024)])
    dim = min(dim, *flat.shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wide = min(dim + 16, *flat.shape)
        return torch.pca_lowrank(flat, q=wide, center=False, niter=2)[2][:, :dim].contiguous()


def pooled(sets: TokenSets, basis: torch.Tensor | None, path: Path, advance: Callable[[int], None]) -> Floats:
    """Write (N, dim) float32 vectors to `path`, a .npy file, strip by strip; returns them memory-mapped."""
    tokens, width = sets.tokens.shape[1:]
    shape = (len(sets), tokens * width if basis is None else basis.shape[1])
    vectors: Floats = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)  # type: ignore[no-untyped-call]
    step = max(1, STRIP_BYTES // (4 * tokens * width))
    for start in range(0, len(sets), step):
        rows = np.arange(start, min(start + step, len(sets)))
        flat = _flat(sets, rows)
        vectors[rows] = (flat if basis is None else flat @ basis).numpy()
        advance(len(rows))
    return vectors


def _flat(sets: TokenSets, rows: Integers) -> torch.Tensor:
    """(n, T * D) normalised tokens end to end, as a mean: an image with few tokens is not behind one with many."""
    unit = sets.subset(rows).unit(slice(0, len(rows)))
    flat = unit.tokens.reshape(len(rows), -1)
    return flat if unit.mask is None else flat * (unit.tokens.shape[1] / unit.mask.sum(dim=1, keepdim=True))


def build(vectors: Floats, kind: Kind, seed: int) -> Any:
    """A FAISS index of the vectors by inner product.

    Args:
        vectors: (N, dim).
        kind: "flat" compares with all; "ivf" with those in a quarter of about 4 sqrt(N) lists; "pq" likewise, in
            4-bit codes of 4 dimensions each, scanned in registers.
    """
    count, dim = vectors.shape
    if kind == "flat":
        index: Any = faiss.IndexFlatIP(dim)
    else:
        lists = max(1, min(int(4 * count**0.5), count // 39))  # FAISS wants 39 vectors to learn a list
        width = -(-dim // 4) * 4
        stem = f"PCAR{width}," if width != dim else ""
        index = faiss.index_factory(
            dim,
            f"IVF{lists},Flat" if kind == "ivf" else f"{stem}IVF{lists},PQ{width // 4}x4fs",
            faiss.METRIC_INNER_PRODUCT,
        )
        faiss.extract_index_ivf(index).cp.seed = seed
        faiss.extract_index_ivf(index).nprobe = -(-lists // PROBED)
        chosen = np.random.default_rng(seed).choice(count, min(count, max(4096, LIST_SAMPLE * lists)), replace=False)
        index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    for start in range(0, count, 65_536):
        index.add(np.ascontiguousarray(vectors[start : start + 65_536]))
    return index


def on_gpus(index: Any, most: int) -> Any:
    """The index shared out over the GPUs that FAISS sees; as it is if there are none or it cannot work there.

    FAISS has flat indexes and inverted lists of whole vectors on a GPU, but no 4-bit codes; there it finds no more
    neighbours and probes no more lists than `GPU_MOST`.
    """
    if most > GPU_MOST or not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        return index
    listed = isinstance(index, faiss.IndexIVFFlat) and index.nprobe <= GPU_MOST
    return faiss.index_cpu_to_all_gpus(index) if listed or isinstance(index, faiss.IndexFlat) else index


def neighbours(index: Any, queries: Floats, count: int) -> Integers:
    """(Q, count) rows of the vectors with the largest inner products, best first; -1 where an index found fewer."""
    found: Integers = index.search(np.ascontiguousarray(queries), min(count, index.ntotal))[1]
    return found
