"""MVFT-JI's ablations, the six of the paper's table 4, in one table. Everything they share is made once."""

from collections.abc import Sequence
from typing import Any

from prefect import flow
from pydantic import Field

from data.config import StageConfig
from flows.mvft_ji import MvftJi
from flows.recipe import Recipe, changed
from flows.study import Study
from tasks.compare import CompareConfig, Variant, compare
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.filter import filter
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.query_texts import query_texts
from tasks.train import train

# MVFT-JI (arXiv 2505.19707), table 4: FashionIQ R@10, CIRCO mAP@5, CIRR R@1; BLIP-2 ViT-L, mean of three seeds.
COLUMNS = ("FashionIQ R@10", "CIRCO mAP@5", "CIRR R@1")
PAPER = {
    "full": (34.84, 21.69, 39.30),
    "no target text at inference": (32.52, 17.53, 30.34),
    "no composed query at inference": (26.66, 15.21, 33.11),
    "no caption loss": (32.75, 22.55, 36.15),
    "no target-text loss": (29.83, 15.18, 34.31),
    "another MLLM": (31.88, 18.18, 37.47),
    "other prompts": (33.72, 22.15, 39.11),
}

# Not in the paper: the kinds of change as the model chooses them, instead of all equally often.
NATURAL = "edits of the model's choice"


class OtherWriter(StageConfig):
    """Who else writes training data; the target texts of the benchmarks' queries stay those of the main model."""

    model: str | None = Field(None, description="another MLLM; none: that row of the table says that it was not run")
    caption_prompt: str = Field("caption_b", description="the other set of prompts, of the main model")
    modification_prompt: str = "mvft_ji/modification_b"
    target_text_prompt: str = "mvft_ji/target_text_b"


class MvftJiAblations(MvftJi):
    """Settings of mvft_ji, and of what takes another's place."""

    other: OtherWriter = OtherWriter()


@flow(name="mvft_ji_ablations")
def mvft_ji_ablations(config: MvftJiAblations, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """Train MVFT-JI whole and without each of its parts, and compare; returns the id of the run.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do, at its first call; None: all.
    """
    with RECIPE.run(config, rerun, until) as run:
        study = Study(config)
        texts = query_texts(config.query_texts.config(config.generate, config.evaluate), resources=config.resources)
        triplets = study.written(config.generate)
        evaluations = {"full": study.measured(study.trained(config.train, triplets), texts)}
        for label, losses in (("no caption loss", "composed_text"), ("no target-text loss", "caption_image")):
            trained = study.trained(changed(config.train, losses=(losses,)), triplets)
            evaluations[label] = study.measured(trained, texts, alone=True)
        other = config.other
        writers: dict[str, dict[str, Any]] = {
            NATURAL: {"edits": "natural"},
            "other prompts": other.model_dump(exclude={"model"}),
        }
        if other.model is not None:
            writers["another MLLM"] = {"model": other.model}
        for label, settings in writers.items():
            trained = study.trained(config.train, study.written(changed(config.generate, **settings)))
            evaluations[label] = study.measured(trained, texts, alone=True)
        compare(CompareConfig(title="MVFT-JI's ablations", variants=variants(config)), evaluations)
    return run.id


def variants(config: MvftJiAblations) -> tuple[Variant, ...]:
    """The rows of table 4, and one more."""
    found, other_model = [], config.other.model
    text = "target_text" if config.train.text_targets == "frozen" else "target_text_trained"
    for label, figures in PAPER.items():
        source: str | None = "full" if label.endswith("at inference") else label
        method = {
            "no target text at inference": "composed",
            "no composed query at inference": text,
        }.get(label, "joint")
        note = ""
        if label == "another MLLM":
            source, note = (None, "set other.model to a checkpoint") if other_model is None else (label, other_model)
        paper = dict(zip(COLUMNS, figures, strict=True))
        found.append(Variant(label=label, source=source, method=method, note=note, paper=paper))
    return (*found, Variant(label=NATURAL, source=NATURAL, method="joint", note="generate.edits=natural"))


RECIPE = Recipe(
    name="mvft_ji_ablations",
    config=MvftJiAblations,
    flow=mvft_ji_ablations,
    stages=(ingest, encode, query_texts, generate, filter, train, evaluate, compare),
)
