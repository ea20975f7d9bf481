"""Rank windows against the plain einsum: ``python -m bench.rank --n 10000 --json``.

Exact for a whole pool, by default; ``--mode candidates`` for large ones, with the exact way on a slab of references.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from bench.measure import load, measured, resident_mib
from bench.rank_peers import faiss_and_reranking, maxsim_cpu
from bench.synthetic import Kind, synthetic
from models.pace import quickest
from models.ranking import Integers, Shortlist, TokenSets, top_k
from models.similarity import normalised
from models.sweep import panels, rank_panel
from tasks.rank_candidates import TOLD, Audit, CandidateConfig, Job, by_candidates

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


def exactly(sets: TokenSets, dtype: torch.dtype, audited: int) -> dict[str, Any]:
    """Rank the whole pool to the end of the window and audit it; peers stand beside it on some references."""
    parts: list[Integers] = []

    def work() -> None:
        shortlist = Shortlist.empty(len(sets), len(sets), WINDOW[1])
        for panel in panels(sets):
            parts.append(rank_panel(sets, panel, shortlist, "reference", dtype).indices)

    before = einsum_pair_seconds(sets)
    cost = measured(work)
    peak = resident_mib(peak=True) / 1024
    pair = min(before, einsum_pair_seconds(sets))
    ranked = np.concatenate(parts)
    return {
        **_figures(len(sets), "exact", f"{_name(dtype)}, two-sided", cost, len(sets), pair),
        **audit(sets, ranked, audited),
        "peak_gib": peak,
        "peers": {
            "maxsim-cpu": maxsim_cpu(sets, pair),
            "faiss candidates, re-ranked": faiss_and_reranking(sets, ranked, pair, dtype),
        },
    }


def by_audited_candidates(
    sets: TokenSets, dtype: torch.dtype, references: int, config: CandidateConfig, slab: int
) -> dict[str, Any]:
    """Rank some references by candidates as the stage does, its audit included; a slab of them exactly."""
    rows = np.sort(np.random.default_rng(0).choice(len(sets), min(references, len(sets)), replace=False))
    pair = einsum_pair_seconds(sets)
    some = rows[:: max(1, len(rows) // slab)][:slab]
    exact = measured(lambda: top_k(sets.subset(some), sets, WINDOW[1], "reference", some, dtype))
    with tempfile.TemporaryDirectory() as folder:
        job = Job(sets, rows, WINDOW[1], "reference", dtype, Path(folder))
        cost = measured(lambda: by_candidates(job, config, "flat", gpus=False))
        peak = resident_mib(peak=True) / 1024
        told = Audit.model_validate_json((Path(folder) / TOLD).read_text(encoding="utf-8"))
    return {
        **_figures(len(sets), told.mode, f"faiss flat, {_name(dtype)} re-ranking", cost, len(rows), pair),
        "agreement": told.agreement,
        "audited": told.audited,
        "peak_gib": peak,
        "peers": {
            "exact, one-sided": {
                "references": len(some),
                "core_seconds_per_reference": exact["core_seconds"] / len(some),
                "whole_pool_core_hours": exact["core_seconds"] / len(some) * len(sets) / 3600,
                "peak_mib": exact["peak_mib"],
            }
        },
        "references": len(rows),
        **told.model_dump(exclude={"mode", "agreement", "audited"}),
    }


def _figures(
    n: int, mode: str, backend: str, cost: dict[str, float], references: int, pair_seconds: float
) -> dict[str, Any]:
    each = cost["core_seconds"] / references
    return {
        "n": n,
        "mode": mode,
        "backend": backend,
        "core_seconds": cost["core_seconds"],
        "wall_seconds": cost["wall_seconds"],
        "core_seconds_per_reference": each,
        "einsum_core_seconds_per_reference": pair_seconds * n,
        "ratio_to_einsum": each / (pair_seconds * n),
    }


def _name(dtype: torch.dtype) -> str:
    return "native int8 and int16" if dtype == torch.int16 else str(dtype)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rank", description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="images in the pool (default 10000)")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--kind", choices=get_args(Kind), default="aligned")
    parser.add_argument("--mode", choices=["exact", "candidates"], default="exact")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "int16"],
        default="auto",
        help="of the first pass; int16 is the native kernel",
    )
    parser.add_argument("--audit", type=int, default=300, help="references checked against full float32 or exact")
    parser.add_argument("--references", type=int, default=2000, help="references ranked by candidates")
    parser.add_argument("--count", type=int, default=1000, help="candidates per source to begin with")
    parser.add_argument("--slab", type=int, default=100, help="references ranked exactly beside candidates")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    if args.n <= WINDOW[1]:
        parser.error(f"--n must be larger than the window's end, {WINDOW[1]}")
    pairs = args.n * (args.n - 1) // 2
    dtype = quickest(args.tokens, args.dim, pairs) if args.dtype == "auto" else getattr(torch, args.dtype)
    tokens = synthetic(args.n, args.tokens, args.dim, args.kind)
    sets = TokenSets([f"{place:09d}" for place in range(args.n)], tokens)
    if args.mode == "exact":
        result = exactly(sets, dtype, args.audit)
    else:
        config = CandidateConfig(audit=args.audit, count=args.count)
        result = by_audited_candidates(sets, dtype, args.references, config, args.slab)
    result |= {"kind": args.kind, "tokens": args.tokens, "dim": args.dim, "load": load()}
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:36} {value:.6g}" if isinstance(value, float) else f"{name:36} {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
