"""Measure the trained retriever and the untrained baselines on composed image retrieval benchmarks."""

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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
from models.encoders import Encoder, load_encoder
from tasks.stage import stage
from tasks.templates import worded_for, wording_facts

if TYPE_CHECKING:
    from tasks.answers import Part
    from tasks.pictures import Pictures

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


@stage(version=4, facts=evaluate_facts)
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
            trained ones target_text_trained and joint. Where they were trained with text_targets="frozen" they read no
            texts: joint then takes the similarities of target_text. A query without a text is asked with its
            modification instead; `detail` counts them.
        others: other trainings, whose composed queries are methods of these names. Where one is named "aligned", the
            baselines are by its checkpoints: the base checkpoint is no embedder yet.
        resources: batch size, workers, device.

    Raises:
        ValueError: if scores are not finite or all equal, or the base checkpoint has changed.
        data.images.BadImage: if a benchmark's image cannot be read.
    """
    from tasks.answers import base_part  # torch takes seconds to import
    from tasks.pictures import Pictures
    from tasks.query_texts import texts_of

    benchmarks = load(config)
    told = {} if texts is None else {benchmark.name: texts_of(texts, benchmark) for benchmark in benchmarks}
    scratch = out / "scratch"
    pictures = [Pictures(benchmark, scratch / benchmark.name, resources) for benchmark in benchmarks]
    asked = _asked(config, trained, tokens, others or {})
    answers: Answers = {benchmark.name: {} for benchmark in benchmarks}
    cut = 0
    work = sum(len(i.ids) + len(i.benchmark.queries) * one.methods(bool(told)) for one in asked for i in pictures)
    frozen = bool(told) and _texts_frozen(trained.manifest["config"])
    work += frozen * sum(len(shown.ids) for shown in pictures)
    sides: dict[str, Part] = {}
    with progress(work, "images and answers") as advance:
        if frozen:
            encoder = _loaded(_Asked(_base(tokens)), tokens, resources)
            for shown in pictures:
                name = shown.benchmark.name
                sides[name] = base_part(encoder, shown, scratch / f"base-{name}.npy", advance, told[name][0])
            cut = encoder.truncations
        for one in asked:
            encoder = _loaded(one, tokens, resources)
            for shown in pictures:
                words, _ = told.get(shown.benchmark.name, (None, 0))
                side = sides.get(shown.benchmark.name)
                found = _answers(one, encoder, config, shown, scratch / "tokens.npy", advance, words, side)
                for method, same in found.items():
                    answers[shown.benchmark.name].setdefault(method, {})[one.seed] = same
            cut = max(cut, encoder.truncations)
    towers: dict[str, JsonValue] = {one.benchmark.name: len(one.towers) for one in pictures}
    shutil.rmtree(scratch)
    detail: dict[str, JsonValue] = {"vision_towers": towers, "texts_cut": cut}
    if told:
        detail["queries_without_a_text"] = {name: missing for name, (_, missing) in told.items()}
    return _write(out, config, benchmarks, answers, detail)


class _Asked(NamedTuple):
    """A checkpoint that answers.

    Attributes:
        checkpoint: its folder or name.
        seed: of its training; None: the base checkpoint, which answers by the baselines alone.
        name: what the answers to its composed queries are called.
        baselines: which it answers by.
        settings: of its training.
        bfloat16: whether an MLLM embeds in these numbers: where its training computed in them.
    """

    checkpoint: str
    seed: int | None = None
    name: str = COMPARED[0]
    baselines: tuple[Baseline, ...] = ()
    settings: Mapping[str, Any] = {}
    bfloat16: bool = False

    @property
    def described(self) -> bool:
        """Whether it also answers by target texts, where there are any."""
        return self.name == COMPARED[0]

    def methods(self, told: bool) -> int:
        """How many times it answers every query."""
        own = 0 if self.seed is None else 1
        texts = 1 + own - _texts_frozen(self.settings) if told and self.described else 0
        return len(self.baselines) + own + texts


def _asked(config: EvaluateConfig, trained: Artifact, tokens: Artifact, others: Mapping[str, Artifact]) -> list[_Asked]:
    """All checkpoints: the base, the seeds, and those of other trainings."""
    found = [_Asked(_base(tokens), baselines=config.baselines)] if config.baselines and ALIGNED not in others else []
    for name, training in {COMPARED[0]: trained, **others}.items():
        settings = training.manifest["config"]
        bfloat16 = tokens.stage == "embedder" and training.manifest["facts"]["dtype"] == "bfloat16"
        baselines = config.baselines if name == ALIGNED else ()
        for seed in settings["seeds"]:
            found.append(_Asked(str(training.file(f"seed-{seed}")), seed, name, baselines, settings, bfloat16))
    return found


def _texts_frozen(settings: Mapping[str, Any]) -> bool:
    """Whether a training left texts to the base checkpoint."""
    return settings.get("text_targets") == "frozen"


def _base(tokens: Artifact) -> str:
    return str(tokens.manifest["config"]["checkpoint"])


def _loaded(one: _Asked, tokens: Artifact, resources: Resources) -> Encoder:
    facts = tokens.manifest["facts"]
    encoder = load_encoder(one.checkpoint, resources.device, facts["dtype"])
    if one.seed is None and encoder.digest != facts["weights"]:
        raise ValueError(f"checkpoint {one.checkpoint} has changed since the images were encoded; run again")
    if one.bfloat16:
        from models.encoders.mllm import MllmEncoder

        assert isinstance(encoder, MllmEncoder)
        encoder.halved = True
    return encoder


def _answers(
    one: _Asked,
    encoder: Encoder,
    config: EvaluateConfig,
    shown: "Pictures",
    path: Path,
    advance: Callable[[int], None],
    words: Sequence[str] | None,
    side: "Part | None",
) -> dict[str, tuple[Answer, ...]]:
    """A checkpoint's answers to a benchmark, by method; `words` are the target texts of its queries, and `side` what
    the base makes of them where the trained ones do not read them."""
    from models.encoders.compared import compared_by
    from tasks.answers import Described, baseline_answers, trained_answers

    worded_for(encoder, shown.benchmark.name)
    if one.seed is None:
        return baseline_answers(encoder, shown, one.baselines, config.depth, path, advance, words)
    compared = compared_by(encoder, one.settings.get("similarity", "max"))
    described = None
    if words is not None and one.described:
        described = Described(words, config.weight, one.settings.get("text_reading", "cls"), side)
    found = trained_answers(compared, shown, config.depth, path, advance, described, one.baselines)
    return {one.name if method == COMPARED[0] else method: same for method, same in found.items()}


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
