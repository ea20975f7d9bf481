"""Other ways to the same windows, on some references of the pool."""

import importlib
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.candidates import Finder, Prepared, candidates, prepare, rerank, stored_type
from models.index import build, pooled, projection
from models.ranking import Integers, TokenSets
from models.similarity import maxsim, normalised

COUNT = 1000
"""Candidates of each reference, as in the usual recipe: nearest neighbours of one vector, then the similarity."""
REFERENCES = 100


def maxsim_cpu(sets: TokenSets, pair_seconds: float) -> dict[str, Any]:
    """maxsim-cpu's fastest call: one query against equal-length documents, in float32."""
    if importlib.util.find_spec("maxsim_cpu") is None:
        return {"skipped": "maxsim-cpu is not installed"}
    peer = importlib.import_module("maxsim_cpu")
    gallery = normalised(sets.rows(slice(0, 1024))[0]).tokens.numpy()
    # It sums over the query's tokens where we average.
    expected = maxsim(torch.from_numpy(gallery[:1]), torch.from_numpy(gallery[:64]))[0] * gallery.shape[1]
    np.testing.assert_allclose(peer.maxsim_scores(gallery[0], gallery[:64]), expected, rtol=1e-4)
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for query in gallery[:16]:
            peer.maxsim_scores(query, gallery)
        best = min(best, time.process_time() - started)
    return {"core_seconds_per_pair": best / (16 * len(gallery)), "ratio_to_einsum": best / (16 * 1024) / pair_seconds}


def faiss_and_reranking(sets: TokenSets, ranked: Integers, pair_seconds: float, dtype: torch.dtype) -> dict[str, Any]:
    """FAISS neighbours of PCA vectors, re-ranked exactly, without audit; agreement is with `ranked`, the whole row."""
    rows = np.sort(np.random.default_rng(1).choice(len(sets), min(REFERENCES, len(sets)), replace=False))
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        vectors = pooled(sets, projection(sets, 256, 0), path / "vectors.npy", lambda _: None)
        kind = stored_type(dtype)
        loss = prepare(sets, kind, path / "tokens.npy", lambda _: None)
        stored = torch.from_numpy(np.load(path / "tokens.npy", mmap_mode="c")).view(kind)
        finder = Finder(vectors, build(vectors, "flat", 0), None, None)
        preparing = time.process_time() - started
        started = time.process_time()
        lists = candidates(finder, sets, rows, COUNT, "reference")
        prepared = Prepared(stored, loss, None, dtype)
        agreeing = 0
        for row, own in zip(rows, lists, strict=True):
            one = rerank(prepared, sets, np.array([row]), [own], ranked.shape[1], "reference").indices[0]
            agreeing += np.array_equal(one, ranked[row])
    each = (time.process_time() - started) / len(rows) + preparing / len(sets)
    return {
        "candidates": COUNT,
        "core_seconds_per_reference": each,
        "ratio_to_einsum": each / (pair_seconds * len(sets)),
        "agreement": agreeing / len(rows),
    }
