"""Measure the trained retriever and the untrained baselines on composed image retrieval benchmarks."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pydantic import Field, JsonValue, PositiveInt, field_validator

from data.artifact import Artifact, Counts, write_table
from data.benchmarks import Benchmark, load_benchmark, names
from data.config import Resources, StageConfig
from data.progress import progress
from data.protocols import Answer, predictions_table, score_rows, scores_table
from data.schemas import PREDICTIONS, SCORES
from data.suggest import did_you_mean
from models.baselines import BASELINES, Baseline
from models.encoders import load_encoder
from tasks.stage import stage

# benchmark -> method -> seed (None for the base checkpoint) -> one answer per query
Answers = dict[str, dict[str, dict[int | None, tuple[Answer, ...]]]]


class EvaluateConfig(StageConfig):
    """What is measured, and how its uncertainty is estimated."""

    benchmarks: tuple[str, ...] = Field(("tiny_single", "tiny_multi"), description="files of data/benchmarks")
    split: str = Field("val", description="the same for all benchmarks")
    options: dict[str, dict[str, JsonValue]] = Field({}, description="by benchmark: what its file asks for")
    baselines: tuple[Baseline, ...] = Field(BASELINES, description="methods that need no training")
    depth: PositiveInt = Field(50, description="ranked images to keep per query; CIRR's and CIRCO's servers take 50")
    rounds: PositiveInt = Field(1000, description="resamples behind each 95 % interval")

    @field_validator("benchmarks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in names():
                raise ValueError(f"no benchmark {name!r};{did_you_mean(name, names())}")
        if not value or len(set(value)) != len(value):
            raise ValueError(f"need at least one benchmark, and each once; got {', '.join(value) or 'none'}")
        return value


def load(config: EvaluateConfig) -> list[Benchmark]:
    """The benchmarks of a config, in its order."""
    return [load_benchmark(name, config.split, **config.options.get(name, {})) for name in config.benchmarks]


def evaluate_facts(config: EvaluateConfig, trained: Artifact, tokens: Artifact) -> dict[str, object]:
    """What decides the scores beyond the config and the inputs: the benchmarks, and the base checkpoint."""
    return {
        "benchmarks": {benchmark.name: benchmark.digest for benchmark in load(config)},
        "checkpoint": tokens.manifest["facts"]["weights"],
    }


@stage(version=2, facts=evaluate_facts)
def evaluate(out: Path, config: EvaluateConfig, trained: Artifact, tokens: Artifact, *, resources: Resources) -> Counts:
    """Score the baselines with the base checkpoint and the composed queries with every trained seed's.

    Writes `scores.parquet` (percent, with 95 % intervals over queries) and `predictions.parquet` (the first `depth`
    images per query, method and seed). Rows are queries; one is dropped only where its benchmark hides the targets,
    so that it is answered but cannot be scored.

    Args:
        out: the output folder. Features of the vision tower stay in it if the run dies, and are used by the next.
        config: what to measure.
        trained: folders `seed-<seed>`, a checkpoint each.
        tokens: its config names the base checkpoint, which the seeds started from.
        resources: batch size, workers, device.

    Raises:
        ValueError: if scores are not finite or all equal, or the base checkpoint has changed.
        data.images.BadImage: if a benchmark's image cannot be read.
    """
    from tasks.answers import baseline_answers, composed_answers  # torch takes seconds to import
    from tasks.pictures import Pictures

    benchmarks = load(config)
    scratch = out / "scratch"
    pictures = [Pictures(benchmark, scratch / benchmark.name, resources) for benchmark in benchmarks]
    checkpoints: list[tuple[int | None, str]] = [(None, _base(tokens))] if config.baselines else []
    checkpoints += [(seed, str(trained.file(f"seed-{seed}"))) for seed in trained.manifest["config"]["seeds"]]
    answers: Answers = {benchmark.name: {} for benchmark in benchmarks}
    cut = 0
    work = sum(
        len(one.ids) + len(one.benchmark.queries) * (len(config.baselines) if seed is None else 1)
        for seed, _ in checkpoints
        for one in pictures
    )
    with progress(work, "images and answers") as advance:
        for seed, checkpoint in checkpoints:
            encoder = load_encoder(checkpoint, resources.device, tokens.manifest["facts"]["dtype"])
            if seed is None and encoder.digest != tokens.manifest["facts"]["weights"]:
                raise ValueError(f"checkpoint {checkpoint} has changed since the images were encoded; run again")
            for one in pictures:
                found = answers[one.benchmark.name]
                path = scratch / "tokens.npy"
                if seed is None:
                    baselines = baseline_answers(encoder, one, config.baselines, config.depth, path, advance)
                    found.update({method: {None: answered} for method, answered in baselines.items()})
                else:
                    answered = composed_answers(encoder, one, config.depth, path, advance)
                    found.setdefault("composed", {})[seed] = answered
            cut = max(cut, encoder.truncations)
    towers: dict[str, JsonValue] = {one.benchmark.name: len(one.towers) for one in pictures}
    shutil.rmtree(scratch)
    return _write(out, config, benchmarks, answers, {"vision_towers": towers, "texts_cut": cut})


def _base(tokens: Artifact) -> str:
    return str(tokens.manifest["config"]["checkpoint"])


def _write(
    out: Path,
    config: EvaluateConfig,
    benchmarks: list[Benchmark],
    answers: Answers,
    detail: Mapping[str, JsonValue],
) -> Counts:
    rows: list[dict[str, object]] = []
    predictions = []
    ties: dict[str, JsonValue] = {}
    for benchmark in benchmarks:
        for method, runs in answers[benchmark.name].items():
            rows += score_rows(method, benchmark, runs, config.rounds)
            predictions += [predictions_table(method, benchmark, seed, found) for seed, found in runs.items()]
            tied = sum(any(answer.tied for answer in same) for same in zip(*runs.values(), strict=True))
            ties[f"{benchmark.name}/{method}"] = tied
    write_table(out / "scores.parquet", scores_table(rows), SCORES)
    write_table(out / "predictions.parquet", pa.concat_tables(predictions), PREDICTIONS)
    asked = sum(len(benchmark.queries) for benchmark in benchmarks)
    hidden = sum(not query.targets for benchmark in benchmarks for query in benchmark.queries)
    return Counts(
        read=asked,
        kept=asked - hidden,
        dropped={"targets_hidden": hidden} if hidden else {},
        written=len(rows),
        detail={"queries_decided_by_a_tie": ties, **detail},
    )
