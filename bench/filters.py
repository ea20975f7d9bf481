"""What filters do to triplets whose truth is known: ``python -m bench.filters --json``.

Two pools of the tiny world, of different seeds, go through the stages of mra_cir up to their triplets. On the first it
is chosen how the filters share what may be dropped; on the second they then do their work, and two retrievers are
trained, on all triplets and on the kept ones. The filters see what the stage sees: images, texts and answers of the
MLLM. The truth, from the scenes behind the images, chooses on the first pool and judges on the second. Everything is
kept below CIRQUE_HOME.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bench.measure import load
from data.artifact import Artifact
from data.config import Resources
from data.metrics import bootstrap_interval
from data.schemas import SCORES, TRIPLETS, VERDICTS
from data.tiny_lessons import Lesson, is_right
from data.tiny_random_edits import pool_scene
from tasks.encode import EncodeConfig, encode
from tasks.evaluate import EvaluateConfig, evaluate
from tasks.filter import FilterConfig, filter, read_yields
from tasks.generate import generate
from tasks.ingest import IngestConfig, ingest
from tasks.plans.mra_cir import MraCirGenerate
from tasks.rank import RankConfig, rank
from tasks.sample import SampleConfig, sample
from tasks.train import TrainConfig, train

OPEN: Mapping[str, Mapping[str, Any]] = {
    "too_long": {"on": True},
    "unsupported": {"on": True, "threshold": 1.0},
    "far_apart": {"on": True, "threshold": 0.0},
    "round_trip": {"on": True, "threshold": 0.0},
    "judge": {"on": True, "threshold": 0.0},
}
"""Filters for which it is chosen, with thresholds that drop nothing; those that are on anyway stay as they are."""
PARTS = 8
"""What may be dropped is shared among the filters in so many parts."""


class World:
    """The artifacts of one pool up to its triplets, and which of these are right."""

    def __init__(self, seed: int, images: int, pairs: int | None, model: str, resources: Resources) -> None:
        self.resources = resources
        self.images = ingest.make(IngestConfig(images=images, seed=seed), resources=resources).artifact
        self.tokens = encode.make(EncodeConfig(), self.images, resources=resources).artifact
        sampled = SampleConfig(limit=pairs)
        ranking = rank.make(RankConfig().limited(pairs, sampled.seed), self.tokens, resources=resources).artifact
        drawn = sample.make(sampled, ranking).artifact
        self.triplets = generate.make(MraCirGenerate(model=model), drawn, self.images, resources=resources).artifact
        rows = self.triplets.read(TRIPLETS, "triplets.parquet").to_pylist()
        self.right = {row["triplet_id"]: _is_right(row, seed) for row in rows}

    def filtered(self, settings: Mapping[str, Mapping[str, Any]]) -> Artifact:
        """Let the stage work with the default filters and these."""
        config = FilterConfig.model_validate(settings)
        return filter.make(config, self.triplets, self.images, self.tokens, resources=self.resources).artifact

    def quality(self, ids: Sequence[str]) -> dict[str, float]:
        """Share of wrong ones among some triplets, in percent, with its 95 % bootstrap interval."""
        wrong = [float(not self.right[triplet]) for triplet in ids]
        low, high = bootstrap_interval(wrong)
        return {"triplets": len(ids), "wrong": 100 * float(np.mean(wrong)), "low": 100 * low, "high": 100 * high}


def _is_right(row: Mapping[str, Any], seed: int) -> bool:
    scenes = tuple(pool_scene(int(row[name]), seed) for name in ("reference_id", "target_id"))
    answer = {"modification": row["modification"]}
    return is_right(Lesson("mra_cir/modification", scenes, {}, answer), answer)


def kept_ids(artifact: Artifact) -> list[str]:
    ids: list[str] = artifact.read(TRIPLETS, "triplets.parquet")["triplet_id"].to_pylist()
    return ids


def choose(world: World, least_yield: float) -> dict[str, int]:
    """Of what may be dropped, the parts that each filter drops, `PARTS` at most together: by as few filters as will do.

    The fewest wrong triplets left may be chance: among all within one standard error of them, those by the fewest
    filters are taken, and of these the ones with the fewest wrong.
    """
    opened = world.filtered(OPEN)
    values = _values(opened)
    right = np.array([world.right[triplet] for triplet in kept_ids(opened)])
    part = droppable(len(right), len(world.right), least_yield) / PARTS
    found = [
        (1 - float(right[kept].mean()), int(kept.sum()), parts)
        for parts, kept in _choices(list(OPEN), values, np.ones(len(right), dtype=np.bool_), part, PARTS)
    ]
    fewest, count, _ = min(found, key=lambda one: one[0])
    near = [one for one in found if one[0] <= fewest + (fewest * (1 - fewest) / count) ** 0.5]
    return min(near, key=lambda one: (sum(parts > 0 for parts in one[2].values()), one[0]))[2]


def droppable(left: int, count: int, least_yield: float) -> float:
    """What shares of `left` triplets, those of `count` that the filters always on keep, may add up to."""
    if left < least_yield * count:
        raise ValueError(f"the filters that are always on keep {left} of {count} triplets, less than {least_yield:.1%}")
    return 1 - least_yield * count / left


def settings_of(world: World, parts: Mapping[str, int], least_yield: float) -> dict[str, dict[str, Any]]:
    """Settings by which these parts leave `least_yield` of the world's triplets, or a little more; no truth enters."""
    part = droppable(len(kept_ids(world.filtered({}))), len(world.right), least_yield) / PARTS
    return {name: {"on": True, "drop": given * part} for name, given in parts.items() if given}


def _choices(
    names: Sequence[str],
    values: Mapping[str, npt.NDArray[np.float64]],
    seen: npt.NDArray[np.bool_],
    part: float,
    parts: int,
) -> Iterator[tuple[dict[str, int], npt.NDArray[np.bool_]]]:
    """All ways to give each filter some of the parts, one after the other as in the stage, and what they keep.

    Of parts that drop the same the fewest are taken.
    """
    if not names:
        yield {}, seen
        return
    name, *rest = names
    known = {_threshold(name, given * part, values[name][seen]): given for given in range(parts, -1, -1)}
    for bound, given in known.items():
        kept = seen & _within(name, values[name], bound)
        for others, left in _choices(rest, values, kept, part, parts - given):
            yield {name: given, **others}, left


def _threshold(name: str, share: float, values: npt.NDArray[np.float64]) -> float:
    """The threshold at which a filter drops this share of what it could measure."""
    known = values[~np.isnan(values)].tolist()
    return float(getattr(FilterConfig(), name).model_copy(update={"drop": share}).settled(known).threshold)


def _within(name: str, values: npt.NDArray[np.float64], bound: float) -> npt.NDArray[np.bool_]:
    """Which values a filter keeps; what it could not measure among them."""
    return ~(values > bound) if getattr(FilterConfig(), name).keeps == "at_most" else ~(values < bound)


def _values(opened: Artifact) -> dict[str, npt.NDArray[np.float64]]:
    """The values of the tuned filters, in the order of the triplets, not a number where there is none."""
    verdicts = opened.read(VERDICTS, "verdicts.parquet")
    known = pa.array(kept_ids(opened), pa.string())
    verdicts = verdicts.filter(pc.is_in(verdicts["triplet_id"], value_set=known))
    named = {name: verdicts.filter(pc.equal(verdicts["filter"], name))["value"] for name in OPEN}
    return {name: pc.fill_null(values, np.nan).to_numpy() for name, values in named.items()}


def recall(world: World, triplets: Artifact, epochs: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Train on triplets and measure on the tiny benchmarks."""
    config = TrainConfig(seeds=tuple(seeds), epochs=epochs)
    trained = train.make(config, triplets, world.images, world.tokens, resources=world.resources).artifact
    scores = evaluate.make(EvaluateConfig(), trained, world.tokens, resources=world.resources).artifact
    figures: dict[str, Any] = {"epochs": epochs, "steps": trained.counts.detail["steps"]}
    for row in scores.read(SCORES, "scores.parquet").to_pylist():
        if row["method"] == "composed" and "/" not in row["metric"]:
            interval = [round(row[name], 1) for name in ("value", "low", "high")]
            figures[f"{row['benchmark']} {row['metric']}"] = interval
    return figures


def bench(args: argparse.Namespace) -> dict[str, Any]:
    resources = Resources(workers=1)
    started = time.perf_counter()
    tuned, world = (World(seed, args.images, args.pairs, args.model, resources) for seed in (args.tune_seed, args.seed))
    parts = choose(tuned, args.least_yield)
    settings, others = (settings_of(pool, parts, args.least_yield) for pool in (world, tuned))
    kept, there = world.filtered(settings), read_yields(tuned.filtered(others))
    numbers = {one["filter"]: one["threshold"] for one in there if one["filter"] in settings}
    carried = world.filtered({name: {"on": True, "threshold": value} for name, value in numbers.items()})
    before, after = world.quality(list(world.right)), world.quality(kept_ids(kept))
    result: dict[str, Any] = {
        "shares": {name: round(one["drop"], 4) for name, one in settings.items()},
        "before": before,
        "after": after,
        "yield": after["triplets"] / before["triplets"],
        "ratio_wrong": after["wrong"] / before["wrong"],
        "by_the_others_thresholds": {"thresholds": numbers, **world.quality(kept_ids(carried))},
        "filters": {one["filter"]: [one["read"], one["kept"], one["threshold"]] for one in read_yields(kept)},
        "model": args.model,
    }
    if args.seeds:
        # The same number of steps on fewer triplets, as near as whole epochs come.
        longer = round(args.epochs * before["triplets"] / after["triplets"])
        result["trained_on_all"] = recall(world, world.triplets, args.epochs, args.seeds)
        result["trained_on_kept"] = recall(world, kept, longer, args.seeds)
    return {**result, "seconds": round(time.perf_counter() - started), "load": load()}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.filters", description=__doc__)
    parser.add_argument("--images", type=int, default=3000, help="in each pool")
    parser.add_argument("--pairs", type=int, help="of each pool that texts are written for; all if left out")
    parser.add_argument("--model", default="tiny_llava", help="the MLLM that writes: a checkpoint")
    parser.add_argument("--tune-seed", type=int, default=101, help="of the pool that is chosen on")
    parser.add_argument("--seed", type=int, default=102, help="of the pool that is reported")
    parser.add_argument("--least-yield", type=float, default=0.7, help="that is to be kept")
    parser.add_argument("--epochs", type=int, default=6, help="of the training on all triplets")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the training; none: no training")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    if args.tune_seed == args.seed:
        parser.error("it is chosen on another pool than the one that is reported: give two seeds")
    if not 0 < args.least_yield < 1:
        parser.error(f"--least-yield is a share between 0 and 1, not {args.least_yield:g}")
    result = bench(args)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
