"""What MRA-CIR's parts are worth: captions, the token-level maximum, hard negatives; by kind of edit, and in a shifted
world."""

from collections.abc import Sequence
from typing import Any

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
from tasks.train import train

# MRA-CIR (arXiv 2505.19952): R@10 on FashionIQ's TopTee, with the caption step and without.
PAPER = {"full": 41.25, "no captions": 40.74}


class MraCirAblations(MraCir):
    """Settings of mra_cir, measured in the tiny world and in a shifted one."""

    evaluate: EvaluateConfig = EvaluateConfig(benchmarks=("tiny_single", "tiny_multi", "tiny_shifted"))
    hard_negatives: PositiveInt = Field(4, description="of each triplet, in the row with hard negatives")


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
        armed = mine(MineConfig(count=config.hard_negatives), triplets, ranking, study.tokens)
        evaluations = {"full": study.measured(study.trained(config.train, triplets))}
        rows: dict[str, tuple[dict[str, Any], Artifact]] = {
            "pooled": ({"similarity": "pooled"}, triplets),
            "slots": ({"similarity": "slots"}, triplets),
            "hard negatives": ({"hard_negatives": config.hard_negatives}, armed),
            "no captions": ({}, study.written(changed(config.generate, caption_prompt=None), pairs)),
        }
        for label, (settings, made) in rows.items():
            trained = study.trained(changed(config.train, **settings), made)
            evaluations[label] = study.measured(trained, alone=True)
        compare(CompareConfig(title="MRA-CIR's parts", variants=variants(config), tags=True), evaluations)
    return run.id


def variants(config: MraCirAblations) -> tuple[Variant, ...]:
    """The rows of the table: the trained retrievers, then what needs no training."""
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
    plain = [Variant(label=name, source="full", method=name, note="untrained") for name in config.evaluate.baselines]
    return (*found, *plain)


RECIPE = Recipe(
    name="mra_cir_ablations",
    config=MraCirAblations,
    flow=mra_cir_ablations,
    stages=(ingest, encode, rank, sample, generate, filter, mine, train, evaluate, compare),
)
