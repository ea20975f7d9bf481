"""InstructCIR's ablations (tables 4 to 6, figure 5) in one table. Everything they share is made once."""

from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from data.artifact import Artifact
from flows.instruct_cir import TINY_ALIGN, TINY_INSTRUCT, InstructCir, Pairs, described
from flows.recipe import Recipe, changed
from tasks.compare import CompareConfig, Variant, compare
from tasks.embedder import Align, Instruct, embedder
from tasks.evaluate import ALIGNED, evaluate
from tasks.filter import filter
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.train import TrainConfig, train
from tasks.triplet_sets import SomeConfig, some

# InstructCIR (arXiv 2412.05756), validation sets; LLaVA-Phi. Its other ablations are not among the figures at hand.
COLUMNS = ("CIRR R@1", "FashionIQ R@10")
PAPER = {
    "full": (34.63, 29.46),
    "no hard negatives": (33.08, 27.29),
    "fixed templates": (33.60, 27.10),
}
NOTES = {
    "full": "both stages on the triplets' images",
    "stage 1 alone": "image and caption, on the triplets' images",
    "stage 1 alone, other images": "on `pairs`",
    "stage 1 alone, both": "on `pairs`, then on the triplets' images",
    "stage 2 alone": "from the checkpoint as it is",
    "stage 1 on other images": "on `pairs`, then stage 2",
    "stage 1 on both": "on `pairs`, then on the triplets' images, then stage 2",
    "stage 2 on plain pairs": "image and caption again, no instruction",
    "no hard negatives": "instruct.hard_negatives=0",
    "the opposite": "image and caption as they are, the modified caption is the hard negative",
    "no wrong captions": "align.hard_negatives=0, then stage 2",
    "fixed templates": "templates=fixed in both stages",
    "dynamic resolution": "resolution=dynamic in both stages",
}


class InstructCirAblations(InstructCir):
    """Settings of instruct_cir with one seed each, and what takes another's place."""

    pairs: Pairs = Pairs(on=True)
    align: Align = changed(TINY_ALIGN, seeds=(0,))
    instruct: Instruct = changed(TINY_INSTRUCT, seeds=(0,))
    sizes: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.25, 0.5), description="shares of the triplets that stage 2 is trained on, each a row"
    )


class Bench:
    """The artifacts that all rows share, and how a row is trained and measured."""

    def __init__(self, config: InstructCirAblations, kept: Artifact, images: Artifact, base: Artifact) -> None:
        self.config, self.kept, self.images, self.base = config, kept, images, base
        self.evaluations: dict[str, Artifact] = {}

    def trained(
        self,
        how: TrainConfig,
        started: Artifact | None,
        triplets: Artifact | None = None,
        images: Artifact | None = None,
    ) -> Artifact:
        """Train on some triplets, or on those of the recipe."""
        data = (triplets or self.kept, images or self.images)
        return train(how, *data, self.base, started, resources=self.config.resources)

    def measure(self, label: str, trained: Artifact, others: dict[str, Artifact] | None = None) -> None:
        """Evaluate a training as a row of the table; baselines come with `others` alone."""
        how = self.config.evaluate if others else self.config.evaluate.model_copy(update={"baselines": ()})
        self.evaluations[label] = evaluate(how, trained, self.base, None, others, resources=self.config.resources)


@flow(name="instruct_cir_ablations")
def instruct_cir_ablations(config: InstructCirAblations, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """Train InstructCIR whole and with each of its parts changed, and compare; returns the id of the run.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do, at its first call; None: all.
    """
    resources = config.resources
    with RECIPE.run(config, rerun, until) as run:
        images = ingest(config.ingest, resources=resources)
        base = embedder(config.embedder)
        triplets = generate(config.generate, None, images, resources=resources)
        bench = Bench(config, filter(config.filter, triplets, images, base, resources=resources), images, base)
        aligned = bench.trained(config.align, None)
        bench.measure("full", bench.trained(config.instruct, aligned), {ALIGNED: aligned})
        _stages(bench, aligned)
        _negatives(bench, aligned)
        for share in config.sizes:
            part = some(SomeConfig(share=share), bench.kept)
            bench.measure(_size(share), bench.trained(config.instruct, aligned, part))
        for label, setting in (("fixed templates", {"templates": "fixed"}), ("dynamic resolution", _DYNAMIC)):
            first = bench.trained(changed(config.align, **setting), None)
            bench.measure(label, bench.trained(changed(config.instruct, **setting), first))
        compare(CompareConfig(title="InstructCIR's ablations", variants=variants(config)), bench.evaluations)
    return run.id


_DYNAMIC: dict[str, Any] = {"resolution": "dynamic"}


def _stages(bench: Bench, aligned: Artifact) -> None:
    """Table 4: the stages, each alone, on either data set or on both."""
    config = bench.config
    bench.measure("stage 2 alone", bench.trained(config.instruct, None))
    plain = changed(config.instruct, losses=("image_caption",), directions="both", hard_negatives=0)
    bench.measure("stage 2 on plain pairs", bench.trained(plain, aligned))
    if not config.pairs.on:
        return
    others, told = described(config.pairs, config.resources)
    # Foils are those of the source, if it has any: captions alone have none.
    lone = config.align if _foiled(told) else changed(config.align, hard_negatives=0)
    elsewhere = bench.trained(lone, None, told, others)
    both = bench.trained(config.align, elsewhere)
    for label, first in (("other images", elsewhere), ("both", both)):
        bench.measure(f"stage 1 alone, {label}", first)
        bench.measure(f"stage 1 on {label}", bench.trained(config.instruct, first))


def _negatives(bench: Bench, aligned: Artifact) -> None:
    """Table 5: hard negatives of the stages, and their opposite."""
    config = bench.config
    bench.measure("no hard negatives", bench.trained(changed(config.instruct, hard_negatives=0), aligned))
    opposite = changed(config.instruct, losses=("image_caption",), hard_negatives=1)
    bench.measure("the opposite", bench.trained(opposite, aligned))
    if config.align.hard_negatives:
        soft = bench.trained(changed(config.align, hard_negatives=0), None)
        bench.measure("no wrong captions", bench.trained(config.instruct, soft))


def _foiled(told: Artifact) -> bool:
    return bool(told.counts.detail.get("foils"))


def _size(share: float) -> str:
    return f"{share:.0%} of the triplets"


def variants(config: InstructCirAblations) -> tuple[Variant, ...]:
    """The rows of the table."""
    skipped: dict[str, str] = {}
    if not config.pairs.on:
        skipped = {label: "needs pairs.on=true" for label in NOTES if label.endswith(("other images", "both"))}
    if not config.align.hard_negatives:
        skipped["no wrong captions"] = "align.hard_negatives is 0 already"
    found = []
    for label, note in NOTES.items():
        source: str | None = "full" if label == "stage 1 alone" else label
        if label in skipped:
            source, note = None, skipped[label]
        method = ALIGNED if label == "stage 1 alone" else "composed"
        paper = dict(zip(COLUMNS, PAPER[label], strict=True)) if label in PAPER else {}
        found.append(Variant(label=label, source=source, method=method, note=note, paper=paper))
    sizes = [Variant(label=_size(share), source=_size(share), method="composed") for share in config.sizes]
    return (*found, *sizes)


RECIPE = Recipe(
    name="instruct_cir_ablations",
    config=InstructCirAblations,
    flow=instruct_cir_ablations,
    stages=(ingest, embedder, generate, filter, train, evaluate, compare),
)
