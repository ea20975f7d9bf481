"""Exact rank windows of a whole pool against the plain einsum: ``python -m bench.rank --n 10000 --json``."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from bench.measure import load, measured, resident_mib
from bench.synthetic import Kind, synthetic
from models.pace import quickest
from models.ranking import Integers, Shortlist, TokenSets
from models.similarity import normalised
from models.sweep import panels, rank_panel

WINDOW = (51, 60)
NOISE = 5e-7
"""Scores that full float32 cannot tell apart: its own sums are off by as much (measured 1.2e-7 at most, D = 256)."""


def plain(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """(Q, N) scores the way everybody writes them, in blocks of 16 x 256."""
    scores = torch.empty(len(queries), len(gallery))
    for left in range(0, len(queries), 16):
        for top in range(0, len(gallery), 256):
            some, block = queries[left : left + 16], gallery[top : top + 256]
            scores[left : left + 16, top : top + 256] = torch.einsum("iad,jbd->ijab", some, block).amax(-1).mean(-1)
    return scores


def einsum_pair_seconds(sets: TokenSets) -> float:
    """Core-seconds of the plain way per ordered pair, best of three over a slab."""
    gallery = normalised(sets.rows(slice(0, 1024))[0]).tokens
    queries = gallery[:32]
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        plain(queries, gallery)
        best = min(best, time.process_time() - started)
    return best / (len(queries) * len(gallery))


def audit(sets: TokenSets, ranked: Integers, count: int) -> dict[str, Any]:
    """Compare ordered windows with those of full float32 for `count` references drawn at random.

    Returns:
        agreement: share of references with the same window, where two images that full float32 scores within NOISE of
            each other may stand in either order; identical: share with the same ids throughout.
    """
    rows = np.sort(np.random.default_rng(0).choice(len(sets), min(count, len(sets)), replace=False))
    queries = normalised(sets.rows(rows)[0]).tokens
    scores = torch.cat(
        [plain(queries, sets.unit(slice(at, at + 2048)).tokens) for at in range(0, len(sets), 2048)], dim=1
    )
    scores[np.arange(len(rows)), rows] = -torch.inf
    window = slice(WINDOW[0] - 1, WINDOW[1])
    # A stable sort of rows that lie in the order of their ids settles ties by id.
    wanted = scores.argsort(dim=1, descending=True, stable=True)[:, window].numpy()
    found = ranked[rows, window]
    gap = np.abs(np.take_along_axis(scores.numpy(), found, 1) - np.take_along_axis(scores.numpy(), wanted, 1))
    return {
        "agreement": float((gap <= NOISE).all(axis=1).mean()),
        "identical": float((found == wanted).all(axis=1).mean()),
        "audited": len(rows),
    }


def bench(n: int, tokens: int, dim: int, kind: Kind, dtype: torch.dtype | None, audited: int) -> dict[str, Any]:
    """Rank a synthetic pool to the end of the window, audit it, and compare the cost with the plain way's."""
    sets = TokenSets([f"{place:09d}" for place in range(n)], synthetic(n, tokens, dim, kind))
    parts: list[Integers] = []
    chosen = dtype or quickest(tokens, dim, n * (n - 1) // 2)

    def exact() -> None:
        shortlist = Shortlist.empty(n, n, WINDOW[1])
        for panel in panels(sets):
            parts.append(rank_panel(sets, panel, shortlist, "reference", chosen).indices)

    before = einsum_pair_seconds(sets)
    cost = measured(exact)
    peak = resident_mib(peak=True) / 1024
    pair = min(before, einsum_pair_seconds(sets))
    return {
        "n": n,
        "mode": "exact",
        "backend": f"torch {str(chosen).removeprefix('torch.')}, two-sided",
        "core_seconds": cost["core_seconds"],
        "wall_seconds": cost["wall_seconds"],
        "core_seconds_per_reference": cost["core_seconds"] / n,
        "einsum_core_seconds_per_reference": pair * n,
        "ratio_to_einsum": cost["core_seconds"] / (pair * n * n),
        **audit(sets, np.concatenate(parts), audited),
        "peak_gib": peak,
        "peers": {},
        "kind": kind,
        "tokens": tokens,
        "dim": dim,
        "load": load(),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rank", description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="images in the pool (default 10000)")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--kind", choices=get_args(Kind), default="aligned")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the first pass")
    parser.add_argument("--audit", type=int, default=300, help="references checked against full float32")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    if args.n <= WINDOW[1]:
        parser.error(f"--n must be larger than the window's end, {WINDOW[1]}")
    dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
    result = bench(args.n, args.tokens, args.dim, args.kind, dtype, args.audit)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:36} {value:.6g}" if isinstance(value, float) else f"{name:36} {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
