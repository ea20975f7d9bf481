"""Time of a training epoch from vision features on disk against computing them: ``python -m bench.epoch --json``.

Both ways take the same steps in one run, on the shipped checkpoint and images of the tiny world; the time of filling
the cache is given beside it.
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

from bench.measure import load
from data.artifact import Artifact, Counts, seal, write_table
from data.config import Resources
from data.schemas import TRIPLETS
from data.tiny_language import caption
from data.tiny_random_edits import pool_scene
from models.training import Trainer
from tasks.encode import EncodeConfig, encode
from tasks.examples import Examples
from tasks.features import Features, FreshFeatures, compute, pictures
from tasks.ingest import IngestConfig, ingest
from tasks.splits import split_triplets
from tasks.train import TrainConfig, base_encoder


def triplets(folder: Path, images: Artifact) -> Artifact:
    """One triplet per image, with the next as its target and a true text; what they say does not matter for time."""
    import random

    import pyarrow as pa

    ids = [row.image_id for row in pictures(images)]
    none = {"model": "", "revision": "", "prompt_digest": "", "caption_prompt_digest": "", "request_ids": []}
    rows = [
        dict.fromkeys(TRIPLETS.names)
        | {
            "triplet_id": f"t{place:06d}", "reference_id": one, "target_id": ids[(place + 1) % len(ids)],
            "modification": caption(pool_scene(int(one)), random.Random(place)), "recipe": "bench", "provenance": none,
        }
        for place, one in enumerate(ids)
    ]  # fmt: skip
    write_table(folder / "triplets.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    return seal(folder, Counts(read=len(rows), kept=len(rows), written=len(rows)), stage="bench")


def epoch(examples: Examples, trainer: Trainer, config: TrainConfig) -> float:
    """Seconds of one pass over the training triplets."""
    rows = np.arange(len(examples.split.training))
    started = time.perf_counter()
    for step in range(len(rows) // config.batch_size):
        trainer.step(step, examples.batch(rows[step * config.batch_size : (step + 1) * config.batch_size]), 0.0)
    return time.perf_counter() - started


def bench(args: argparse.Namespace) -> dict[str, Any]:
    resources = Resources(workers=args.workers, device=args.device)
    images = ingest.make(IngestConfig(images=args.images), resources=resources).artifact
    tokens = encode.make(EncodeConfig(checkpoint=args.checkpoint), images, resources=resources).artifact
    config = TrainConfig(batch_size=args.batch)
    with tempfile.TemporaryDirectory() as folder:
        known = pictures(images)
        split = split_triplets(triplets(Path(folder) / "triplets", images), {row.image_id for row in known}, 0.1, 10)
        encoder = base_encoder(config, tokens, resources)
        features = Features(Path(folder) / "vision")
        started = time.perf_counter()
        compute(features, images, known, encoder, encoder.vision_of, resources)
        filling = time.perf_counter() - started
        fresh = FreshFeatures(images, known, encoder, resources)
        trainer = Trainer(encoder, config.objective(), seed=0, weight_decay=0.05, clip=1.0, dtype="float32")
        ways: dict[str, Features | FreshFeatures] = {"cached": features, "recomputed": fresh}
        runs: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.repeats):  # by turns, so that other work on the machine disturbs both alike
            for name, source in ways.items():
                runs[name].append(epoch(Examples(split, source, known, encoder.device), trainer, config))
    best = {name: min(seconds) for name, seconds in runs.items()}
    return {
        "epoch_seconds": best,
        "ratio": best["cached"] / best["recomputed"],
        "filling_seconds": filling,
        "triplets": len(split.training),
        "batch": args.batch,
        "checkpoint": args.checkpoint,
        "load": load(),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.epoch", description=__doc__)
    parser.add_argument("--checkpoint", default="tiny_blip2")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="the best time of so many counts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    result = bench(args)
    if args.json:
        print(json.dumps(result))
        return
    seconds = result["epoch_seconds"]
    print(f"an epoch of {result['triplets']} triplets: {seconds['cached']:.1f} s from cached features,"
          f" {seconds['recomputed']:.1f} s computing them, x {result['ratio']:.2f};"
          f" filling the cache {result['filling_seconds']:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
