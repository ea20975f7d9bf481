"""Latency of a search on a warm cache: composing one query, and ranking a gallery of synthetic tokens for it.

    python -m bench.search --n 10000 --json

Starting Python, importing torch and loading the checkpoint are paid once per process and are not in it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import load
from bench.synthetic import synthetic
from data.tokens import read_tokens, write_tokens


def measure(n: int, tokens: int, dim: int, k: int, rounds: int) -> dict[str, Any]:
    """Best of some rounds, in seconds; the gallery is mapped from a file as the store's is."""
    import torch
    from PIL import Image

    from models.encoders import load_encoder
    from models.ranking import TokenSets, top_k

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.arrow"
        write_tokens(path, [f"{place:07d}" for place in range(n)], synthetic(n, tokens, dim, "aligned"))
        gallery = TokenSets(*read_tokens(path))
        query = TokenSets(["query"], synthetic(1, tokens, dim, "aligned", seed=1))
        rank, rank_core = _best(lambda: top_k(query, gallery, k, exclude=[0]), rounds)
    encoder = load_encoder("tiny_blip2", "cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with torch.inference_mode():
        compose, compose_core = _best(lambda: encoder.query_tokens(encoder.vision([image]), ["make it red"]), rounds)
    return {
        "n": n, "tokens": tokens, "dim": dim, "k": k, "rank_seconds": round(rank, 4),
        "rank_core_seconds": round(rank_core, 4), "compose_seconds": round(compose, 4),
        "compose_core_seconds": round(compose_core, 4), "threads": torch.get_num_threads(), "load": load(),
    }  # fmt: skip


def _best(work: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Wall time and the time of all cores; on a busy machine only the second says much."""
    walls, cores = [], []
    for _ in range(rounds):
        wall, core = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cores.append(time.process_time() - core)
    return min(walls), min(cores)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Latency of a search on a warm cache.")
    parser.add_argument("--n", type=int, default=10_000, help="images of the gallery")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args(arguments)
    found = measure(options.n, options.tokens, options.dim, options.k, options.rounds)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
