"""Measure the trained retriever and the untrained baselines on composed image retrieval benchmarks."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field, JsonValue, PositiveInt, field_validator

from data.artifact import Artifact, Counts, write_table
from data.benchmarks import Benchmark, load_benchmark, names
from data.config import Resources, StageConfig
from data.metrics import paired_test
from data.progress import progress
from data.protocols import Answer, predictions_table, score_rows, scores_table
from data.schemas import PREDICTIONS, SCORES, TESTS, VALUES
from data.suggest import did_you_mean
from models.baselines import BASELINES, Baseline
from models.encoders import load_encoder
from tasks.stage import stage
from tasks.templates import worded_for, wording_facts

# benchmark -> method -> seed (None for the base checkpoint) -> one answer per query
Answers = dict[str, dict[str, dict[int | None, tuple[Answer, ...]]]]

# Metrics whose differences are tested, where a benchmark has them: headlines, for a test draws 10,000 sign patterns.
TESTED = ("recall@1", "recall@10", "map@5")
# Methods that are compared with every other one.
COMPARED = ("composed", "joint")
# Of InstructCIR, the first stage alone.
ALIGNED = "aligned"


class EvaluateConfig(StageConfig):
    """What is measured, and how its uncertainty is estimated."""

    benchmarks: tuple[str, ...] = Field(("tiny_single", "tiny_multi"), description="files of data/benchmarks")
    split: str = Field("val", description="the same for all benchmarks")
    options: dict[str, dict[str, JsonValue]] = Field({}, description="by benchmark: what its file asks for")
    baselines: tuple[Baseline, ...] = Field(BASELINES, description="methods that need no training")
    weight: Annotated[float, Field(ge=0, le=1, description="of the target text in joint inference")] = 0.5
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


def evaluate_facts(
    config: EvaluateConfig,
    trained: Artifact,
    tokens: Artifact,
    texts: Artifact | None = None,
    others: Mapping[str, Artifact] | None = None,
) -> dict[str, object]:
    """What decides the scores beyond the config and the inputs: the benchmarks, and the base checkpoint."""
    return {
        "benchmarks": {benchmark.name: benchmark.digest for benchmark in load(config)},
        "checkpoint": tokens.manifest["facts"]["weights"],
        **(wording_facts(config.benchmarks) if tokens.stage == "embedder" else {}),
    }


@stage(version=3, facts=evaluate_facts)
def evaluate(
    out: Path,
    config: EvaluateConfig,
    trained: Artifact,
    tokens: Artifact,
    texts: Artifact | None = None,
    others: Mapping[str, Artifact] | None = None,
    *,
    resources: Resources,
) -> Counts:
    """Score the baselines with the base checkpoint and the composed queries with every trained seed's.

    Writes `scores.parquet` (percent, with 95 % intervals over queries), `values.parquet` (what each answer is worth),
    `tests.parquet` (composed and joint against the other methods, by a paired test over queries) and
    `predictions.parquet` (the first `depth` images per query, method and seed). Rows are queries; one is dropped only
    where its benchmark hides the targets, so that it is answered but cannot be scored.

    Args:
        out: the output folder. Features of the vision tower stay in it if the run dies, and are used by the next.
        config: what to measure.
        trained: folders `seed-<seed>`, a checkpoint each; its config says how texts are read and tokens compared.
        tokens: its config names the base checkpoint, which the seeds started from.
        texts: target texts of the queries. With them there is also target_text, by the base checkpoint, and by the
            trained ones target_text_trained and joint. A query without a text is asked with its modification instead;
            `detail` counts them.
        others: other trainings, whose composed queries are methods of these names. Where one is named "aligned", the
            baselines are by its checkpoints: the base checkpoint is no embedder yet.
        resources: batch size, workers, device.

    Raises:
        ValueError: if scores are not finite or all equal, or the base checkpoint has changed.
        data.images.BadImage: if a benchmark's image cannot be read.
    """
    from models.encoders.compared import compared_by  # torch takes seconds to import
    from tasks.answers import Described, baseline_answers, trained_answers
    from tasks.pictures import Pictures
    from tasks.query_texts import texts_of

    benchmarks = load(config)
    told = {} if texts is None else {benchmark.name: texts_of(texts, benchmark) for benchmark in benchmarks}
    scratch = out / "scratch"
    pictures = [Pictures(benchmark, scratch / benchmark.name, resources) for benchmark in benchmarks]
    settings = trained.manifest["config"]
    checkpoints: list[tuple[int | None, str]] = []
    if config.baselines and ALIGNED not in (others or {}):
        checkpoints.append((None, _base(tokens)))
    checkpoints += _seeds(trained)
    more = [(name, *one) for name, other in (others or {}).items() for one in _seeds(other)]
    answers: Answers = {benchmark.name: {} for benchmark in benchmarks}
    cut = 0
    methods = (len(config.baselines) + bool(told), 3 if told else 1)
    work = sum(
        len(one.ids) + len(one.benchmark.queries) * methods[seed is not None]
        for seed, _ in checkpoints
        for one in pictures
    ) + sum(
        len(one.ids) + len(one.benchmark.queries) * (1 + (len(config.baselines) if name == ALIGNED else 0))
        for name, _, _ in more
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
                words, _ = told.get(one.benchmark.name, (None, 0))
                worded_for(encoder, one.benchmark.name)
                if seed is None:
                    answered = baseline_answers(encoder, one, config.baselines, config.depth, path, advance, words)
                else:
                    compared = compared_by(encoder, settings.get("similarity", "max"))
                    reading = settings.get("text_reading", "cls")
                    described = None if words is None else Described(words, config.weight, reading)
                    answered = trained_answers(compared, one, config.depth, path, advance, described)
                for method, same in answered.items():
                    found.setdefault(method, {})[seed] = same
            cut = max(cut, encoder.truncations)
        for name, seed, checkpoint in more:
            encoder = load_encoder(checkpoint, resources.device, tokens.manifest["facts"]["dtype"])
            for one in pictures:
                worded_for(encoder, one.benchmark.name)
                found, path = answers[one.benchmark.name], scratch / "tokens.npy"
                baselines = config.baselines if name == ALIGNED else ()
                answered = trained_answers(encoder, one, config.depth, path, advance, baselines=baselines)
                for method, same in answered.items():
                    found.setdefault(name if method == "composed" else method, {})[seed] = same
            cut = max(cut, encoder.truncations)
    towers: dict[str, JsonValue] = {one.benchmark.name: len(one.towers) for one in pictures}
    shutil.rmtree(scratch)
    detail: dict[str, JsonValue] = {"vision_towers": towers, "texts_cut": cut}
    if told:
        detail["queries_without_a_text"] = {name: missing for name, (_, missing) in told.items()}
    return _write(out, config, benchmarks, answers, detail)


def _seeds(trained: Artifact) -> list[tuple[int | None, str]]:
    """The seeds of a training, and the folders of their checkpoints."""
    return [(seed, str(trained.file(f"seed-{seed}"))) for seed in trained.manifest["config"]["seeds"]]


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
    write_table(out / "values.parquet", pa.Table.from_pylist(_values(benchmarks, answers), schema=VALUES), VALUES)
    write_table(out / "tests.parquet", pa.Table.from_pylist(_tests(benchmarks, answers), schema=TESTS), TESTS)
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


def _values(benchmarks: list[Benchmark], answers: Answers) -> list[dict[str, Any]]:
    """Rows of VALUES, of the metrics that are tested."""
    return [
        {
            "method": method,
            "benchmark": benchmark.name,
            "seed": seed,
            "metric": metric,
            "query_id": answer.query.query_id,
            "tags": list(answer.query.tags),
            "value": answer.values[metric],
        }
        for benchmark in benchmarks
        for method, runs in answers[benchmark.name].items()
        for seed, found in runs.items()
        for answer in found
        for metric in TESTED
        if metric in answer.values
    ]


def _tests(benchmarks: list[Benchmark], answers: Answers) -> list[dict[str, Any]]:
    """Rows of TESTS: of each query its mean over the seeds counts."""
    rows: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        found = answers[benchmark.name]
        metrics = [metric for metric in TESTED if metric in benchmark.metrics]
        for method, other, metric in itertools.product(COMPARED, found, metrics):
            if method not in found or method == other or (other in COMPARED and method == COMPARED[0]):
                continue
            one, two = (
                np.array([[100 * answer.values[metric] for answer in run] for run in found[name].values()]).mean(axis=0)
                for name in (method, other)
            )
            rows.append(
                {
                    "benchmark": benchmark.name,
                    "metric": metric,
                    "method": method,
                    "other": other,
                    "difference": float(one.mean() - two.mean()),
                    "p": paired_test(one, two),
                    "queries": len(one),
                }
            )
    return rows
