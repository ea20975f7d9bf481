"""Scoring benchmark queries against a gallery in a file, in bounded memory: ``python -m bench.score --json``.

The gallery is written to a temporary folder a chunk at a time, mapped, and scored as `flows evaluate` scores it: tokens
normalised strip by strip, mean-of-max similarities in float32, every query judged and its 50 best images kept. All
queries are held; with ``--slab`` only the first of them are answered, against the whole gallery, and the rest of the
time is an estimate.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.measure import load, reset_peak, resident_mib
from bench.rank import plain
from bench.synthetic import CHUNK, Kind, synthetic
from data.benchmarks import Benchmark, Query
from data.protocols import Judge
from models.encoders import TokenSet
from models.similarity import normalised
from tasks.answers import ImageTokens, Weighted, answer

# CIRCO's size, about: 4,000 queries (CIRR's number) against COCO's 123,403 unlabelled images.
GOAL = (4_000, 120_000)


def write_gallery(path: Path, count: int, tokens: int, dim: int, kind: Kind) -> np.memmap[Any, np.dtype[np.float16]]:
    """A mapped file of (count, tokens, dim) float16 tokens; no more than a chunk of it is held while it is written.

    The first CHUNK images are synthetic. The following chunks are the same with their dimensions turned by one more
    place each: other images to a query, for the price of a copy.
    """
    shape = (count, tokens, dim)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
    first = synthetic(min(count, CHUNK), tokens, dim, kind)
    for turn, start in enumerate(range(0, count, CHUNK)):
        file[start : start + CHUNK] = np.roll(first, turn, axis=-1)[: count - start]
    file.flush()
    del file  # its pages would count as ours
    mapped: np.memmap[Any, np.dtype[np.float16]] = np.load(path, mmap_mode="r")
    return mapped


def question(queries: int, gallery: int) -> Benchmark:
    """A benchmark of that many queries; the target of each is an image of its own."""
    ids = tuple(f"{place:06d}" for place in range(gallery))
    return Benchmark(
        name="synthetic",
        split="val",
        gallery=ids,
        queries=tuple(
            Query(f"q{place}", ids[place % gallery], "", (ids[(place + 1) % gallery],)) for place in range(queries)
        ),
        protocol={"reference": "mask"},
        metrics=("recall@1", "recall@10", "recall@50"),
        source="bench.score",
        licence="none",
        load_image=lambda image: Image.new("RGB", (1, 1)),
        digest="synthetic",
    )


def plain_pair_seconds(queries: torch.Tensor, gallery: Any) -> float:
    """Core-seconds per query and image of the plain einsum, best of three over a slab."""
    some = normalised(queries[:32]).tokens
    shown = normalised(torch.from_numpy(np.array(gallery[:1024]))).tokens
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        plain(some, shown)
        best = min(best, time.process_time() - started)
    return best / (len(some) * len(shown))


def bench(queries: int, gallery: int, tokens: int, dim: int, kind: Kind, slab: int | None = None) -> dict[str, Any]:
    """Score and judge `slab` queries (default: all) once; the peak is of the process, the mapped pages included."""
    some = min(queries, slab or queries)
    with tempfile.TemporaryDirectory() as folder:
        file = write_gallery(Path(folder) / "gallery.npy", gallery, tokens, dim, kind)
        rows = np.arange(gallery)
        images = ImageTokens(file, np.ones((gallery, tokens), dtype=bool), rows)
        asked = torch.from_numpy(synthetic(queries, tokens, dim, kind, seed=1).astype(np.float32))
        benchmark = question(some, gallery)
        parts = [Weighted(1.0, TokenSet(asked, torch.ones(asked.shape[:2], dtype=torch.bool)))]
        reset_peak()
        cpu, wall = time.process_time(), time.perf_counter()
        answers = answer(Judge(benchmark), parts, images, lambda units: None)
        core_seconds, wall_seconds = time.process_time() - cpu, time.perf_counter() - wall
        peak = resident_mib(peak=True) / 1024
        theirs = plain_pair_seconds(asked, file)
    pairs = some * gallery
    return {
        "queries": queries,
        "slab": some,
        "gallery": gallery,
        "tokens": tokens,
        "dim": dim,
        "kind": kind,
        "answers": len(answers),
        "core_seconds": core_seconds,
        "wall_seconds": wall_seconds,
        "pairs_per_core_second": pairs / core_seconds,
        "gflops_per_core": 2 * tokens * tokens * dim * pairs / core_seconds / 1e9,
        "ratio_to_einsum": core_seconds / (theirs * pairs),
        "peak_gib": peak,
        "gallery_gib": gallery * tokens * dim * 2 / 2**30,
        "goal": {
            "queries": GOAL[0],
            "gallery": GOAL[1],
            "core_hours": core_seconds / pairs * GOAL[0] * GOAL[1] / 3600,
            "measured": (some, gallery) == GOAL,
        },
        "threads": torch.get_num_threads(),
        "load": load(),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.score", description=__doc__)
    parser.add_argument("--queries", type=int, default=GOAL[0])
    parser.add_argument("--slab", type=int, help="answer only so many of the queries")
    parser.add_argument("--gallery", type=int, default=GOAL[1], help="images; 16 KB each on the disk")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--kind", choices=["aligned", "scattered"], default="aligned")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    if args.gallery < 51 or args.queries < 1 or (args.slab is not None and args.slab < 1):
        parser.error("want at least 51 images, and at least one query")
    result = bench(args.queries, args.gallery, args.tokens, args.dim, args.kind, args.slab)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value:.6g}" if isinstance(value, float) else f"{name:24} {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
