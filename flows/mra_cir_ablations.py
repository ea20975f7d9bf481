"""What MRA-CIR's parts are worth: captions, the token-level maximum, hard negatives; kinds of change equally often or
as they come; by kind of edit, and in a shifted world."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field, PositiveInt

from data.artifact import Artifact
from flows.mra_cir import MraCir
from flows.recipe import Recipe, changed
from flows.study import Study
from tasks.compare import CompareConfig, Variant, compare
from tasks.encode import encode
from tasks.evaluate import EvaluateConfig, evaluate
from tasks.filter import filter
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.mine import MineConfig, mine
from tasks.rank import rank
from tasks.sample import sample
from tasks.stage import Stage
from tasks.train import train
from tasks.triplet_sets import PickConfig, pick

# MRA-CIR (arXiv 2505.19952): R@10 on FashionIQ's TopTee, with the caption step and without.
PAPER = {"full": 41.25, "no captions": 40.74}

# Rows that train on a part of the triplets. `full` has more of them, so the first of these is compared with the second.
BALANCED, NATURAL = "balanced edits", "natural edits"
EDITS: dict[str, Literal["balanced", "natural"]] = {BALANCED: "balanced", NATURAL: "natural"}


class MraCirAblations(MraCir):
    """Settings of mra_cir, measured in the tiny world and in a shifted one."""

    evaluate: EvaluateConfig = EvaluateConfig(benchmarks=("tiny_single", "tiny_multi", "tiny_shifted"))
    hard_negatives: PositiveInt = Field(4, description="of each triplet, in the row with hard negatives")
    edit_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25, description="of the triplets whose kind of change is known, in the rows with balanced and natural edits"
    )


@flow(name="mra_cir_ablations")
def mra_cir_ablations(config: MraCirAblations, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """Train MRA-CIR whole and with one part changed at a time, and compare; returns the id of the run.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do, at its first call; None: all.
    """
    with RECIPE.run(config, rerun, until) as run:
        study = Study(config)
        ranking, pairs = study.paired(config)
        triplets = study.written(config.generate, pairs)
        picked, unknown = by_kind(config, triplets)
        armed = mine(MineConfig(count=config.hard_negatives), triplets, ranking, study.tokens)
        evaluations = {"full": study.measured(study.trained(config.train, triplets))}
        rows: dict[str, tuple[dict[str, Any], Artifact]] = {
            "pooled": ({"similarity": "pooled"}, triplets),
            "slots": ({"similarity": "slots"}, triplets),
            "hard negatives": ({"hard_negatives": config.hard_negatives}, armed),
            "no captions": ({}, study.written(changed(config.generate, caption_prompt=None), pairs)),
        }
        rows |= {label: ({}, made) for label, made in picked.items()}
        for label, (settings, made) in rows.items():
            trained = study.trained(changed(config.train, **settings), made)
            evaluations[label] = study.measured(trained, alone=True)
        found = variants(config, picked, unknown)
        compare(CompareConfig(title="MRA-CIR's parts", variants=found, tags=True), evaluations)
    return run.id


def by_kind(config: MraCirAblations, triplets: Artifact) -> tuple[dict[str, Artifact], str]:
    """Equally many triplets for each row of `EDITS`; or nothing, and why these rows are not run."""
    if config.ingest.source != "tiny_world":
        return {}, "the kind of a change is known of ingest.source=tiny_world only"
    share, world = config.edit_share, config.ingest.seed
    picked = {
        label: pick(PickConfig(edits=edits, share=share, world=world), triplets) for label, edits in EDITS.items()
    }
    counts = next(iter(picked.values())).counts
    if counts.written < config.train.batch_size:
        known = counts.kept + counts.dropped.get("not_drawn", 0)
        return {}, (
            f"{counts.written} triplets are fewer than train.batch_size={config.train.batch_size}; of {counts.read:,}"
            f" the kind of change is known of {known:,}, of which edit_share={share:g} are drawn"
        )
    return picked, ""


def variants(config: MraCirAblations, picked: Mapping[str, Artifact], unknown: str) -> tuple[Variant, ...]:
    """The rows of the table: the trained retrievers, then what needs no training.

    Args:
        config: of the study.
        picked, unknown: as `by_kind` gives them.
    """
    notes = {
        "full": "mean of maxima over tokens",
        "pooled": "one mean vector a side, in training and evaluation",
        "slots": "token by token, in training and evaluation",
        "hard negatives": f"{config.hard_negatives} a triplet",
        "no captions": "modifications written from the images alone",
    }
    found = [
        Variant(
            label=label, source=label, method="composed", note=note,
            paper={"FashionIQ TopTee R@10": PAPER[label]} if label in PAPER else {},
        )
        for label, note in notes.items()
    ]  # fmt: skip
    for label in EDITS:
        source, note = (label, edit_note(picked[label])) if label in picked else (None, unknown)
        against = NATURAL if label == BALANCED else None
        found.append(Variant(label=label, source=source, method="composed", note=note, against=against))
    plain = [Variant(label=name, source="full", method=name, note="untrained") for name in config.evaluate.baselines]
    return (*found, *plain)


def edit_note(picked: Artifact) -> str:
    """How many triplets were drawn, in all and of a kind."""
    drawn = picked.counts.detail["drawn"]
    assert isinstance(drawn, dict)
    numbers = [int(str(number)) for number in drawn.values()]
    return f"{sum(numbers):,} triplets, {min(numbers)} to {max(numbers)} of each kind of change"


def _planned(config: MraCirAblations) -> tuple[Stage[...], ...]:
    """Triplets are drawn by kind of change where it is known."""
    return tuple(stage for stage in STAGES if stage is not pick or config.ingest.source == "tiny_world")


STAGES: tuple[Stage[...], ...] = (
    *(ingest, encode, rank, sample, generate, filter, pick, mine, train, evaluate, compare),
)


RECIPE = Recipe(
    name="mra_cir_ablations",
    config=MraCirAblations,
    flow=mra_cir_ablations,
    stages=STAGES,
    planned=_planned,
)
