"""Training of several seeds side by side against one after the other: ``python -m bench.seeds --json``.

With OMP_WAIT_POLICY=PASSIVE threads wait for each other as under `python -m flows`; without it they spin, which is
faster on a machine that does nothing else.
Both ways are whole trainings of the shipped checkpoint on images of the tiny world, in one run: starting processes,
validations, saved states and checkpoints are in their time.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.epoch import triplets
from bench.measure import load
from data.config import Resources
from tasks.encode import EncodeConfig, encode
from tasks.ingest import IngestConfig, ingest
from tasks.train import TrainConfig, train, train_facts


def bench(args: argparse.Namespace) -> dict[str, Any]:
    config = TrainConfig(seeds=tuple(range(args.seeds)), epochs=args.epochs)
    resources = Resources(device="cpu")
    images = ingest.make(IngestConfig(images=args.images), resources=resources).artifact
    tokens = encode.make(EncodeConfig(), images, resources=resources).artifact
    runs: dict[str, list[float]] = {"one_by_one": [], "side_by_side": []}
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"triplets": triplets(Path(folder) / "triplets", images), "images": images, "tokens": tokens}
        for number in range(args.repeats):  # by turns, so that other work on the machine disturbs both alike
            for way, at_once in (("one_by_one", 1), ("side_by_side", args.seeds)):
                out = Path(folder) / f"{way}-{number}"
                out.mkdir()
                started = time.perf_counter()
                train.fn(
                    out, config, **inputs, facts=train_facts(config, **inputs),
                    resources=resources.model_copy(update={"seeds_at_once": at_once}),
                )  # fmt: skip
                runs[way].append(time.perf_counter() - started)
    best = {way: min(seconds) for way, seconds in runs.items()}
    return {
        "seconds": best,
        "ratio": best["side_by_side"] / best["one_by_one"],
        "seeds": args.seeds,
        "triplets": images.counts.written,
        "epochs": args.epochs,
        "threads": torch.get_num_threads(),
        "waiting": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "load": load(),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.seeds", description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="the best time of so many counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    result = bench(args)
    if args.json:
        print(json.dumps(result))
        return
    seconds = result["seconds"]
    print(f"{result['seeds']} seeds of {result['triplets']} triplets: {seconds['side_by_side']:.1f} s side by side,"
          f" {seconds['one_by_one']:.1f} s one by one, x {result['ratio']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
