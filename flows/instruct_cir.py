"""InstructCIR: a multimodal language model becomes an embedder, taught by captions and instructions that it wrote."""

from collections.abc import Sequence

from prefect import flow
from pydantic import Field, model_validator

from data.artifact import Artifact
from data.config import Resources, StageConfig
from flows.recipe import Recipe, changed
from tasks.caption import CaptionConfig, caption
from tasks.embedder import Align, DescribeConfig, EmbedderConfig, Instruct, Lora, describe, embedder
from tasks.evaluate import ALIGNED, EvaluateConfig, evaluate
from tasks.filter import FilterConfig, check_filters, filter
from tasks.generate import check_generator, generate
from tasks.ingest import IngestConfig, ingest
from tasks.plans.instruct_cir import InstructCirGenerate
from tasks.report import ReportConfig, report
from tasks.stage import Stage
from tasks.train import train

NO_NEGATIVES = "no_hard_negatives"
# For a model of 3 million weights and a few hundred pictures: all weights but the tower's, at a high rate.
TINY_ALIGN = Align(
    epochs=3, batch_size=48, learning_rate=1e-3, warmup=0.1, lora=Lora(on=False), parts=("adapter", "language"),
    max_text_tokens=160, validation_gallery=250,
)  # fmt: skip
TINY_INSTRUCT = Instruct(
    epochs=3, batch_size=48, learning_rate=5e-4, warmup=0.1, lora=Lora(on=False), max_text_tokens=160,
    validation_gallery=250,
)  # fmt: skip


class Pairs(StageConfig):
    """Images with captions for the first stage, where they are others than those of the second."""

    on: bool = Field(False, description="off: the first stage sees the images of the triplets")
    ingest: IngestConfig = IngestConfig(images=600, seed=1)
    write_captions: bool = Field(True, description="of every image; off: those with captions of their own are used")
    caption: CaptionConfig = CaptionConfig()


class InstructCir(StageConfig):
    """Settings of every stage; the defaults run on the tiny world with the model that comes with the repository."""

    ingest: IngestConfig = IngestConfig(images=800)
    embedder: EmbedderConfig = EmbedderConfig()
    generate: InstructCirGenerate = InstructCirGenerate(caption_prompt="caption")
    filter: FilterConfig = FilterConfig()
    pairs: Pairs = Pairs()
    align: Align = TINY_ALIGN
    instruct: Instruct = TINY_INSTRUCT
    compare_negatives: bool = Field(True, description="also train the second stage without hard negatives, and measure")
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _generators_have_what_they_need(self) -> "InstructCir":
        check_generator(self.generate, self.resources)
        check_filters(self.filter, self.resources)
        return self

    @model_validator(mode="after")
    def _same_seeds(self) -> "InstructCir":
        missing = sorted(set(self.instruct.seeds) - set(self.align.seeds))
        if missing:
            raise ValueError(f"seed {missing[0]} of instruct.seeds is none of align.seeds, which it goes on from")
        return self


def described(pairs: Pairs, resources: Resources) -> tuple[Artifact, Artifact]:
    """Images with captions, and these as triplets for the first stage."""
    images = ingest(pairs.ingest, resources=resources)
    captions = caption(pairs.caption, images, resources=resources) if pairs.write_captions else None
    return images, describe(DescribeConfig(), images, captions)


@flow(name="instruct_cir")
def instruct_cir(config: InstructCir, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """From captions to an embedder, trained in two stages and measured after each; returns the id of the run.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do, in its last call; None: all.
    """
    resources = config.resources
    with RECIPE.run(config, rerun, until) as run:
        images = ingest(config.ingest, resources=resources)
        base = embedder(config.embedder)
        triplets = generate(config.generate, None, images, resources=resources)
        kept = filter(config.filter, triplets, images, base, resources=resources)
        shown, told = described(config.pairs, resources) if config.pairs.on else (images, kept)
        aligned = train(config.align, told, shown, base, resources=resources)
        trained = train(config.instruct, kept, images, base, aligned, resources=resources)
        others = {ALIGNED: aligned}
        if config.compare_negatives:
            plain = changed(config.instruct, hard_negatives=0)
            others[NO_NEGATIVES] = train(plain, kept, images, base, aligned, resources=resources)
        scores = evaluate(config.evaluate, trained, base, None, others, resources=resources)
        report(config.report, images, None, None, triplets, trained, scores, tokens=base, kept=kept)
    return run.id


def _planned(config: InstructCir) -> tuple[Stage[...], ...]:
    """The first stage may have images of its own, and the second may be trained twice."""
    captioned = (caption,) if config.pairs.write_captions else ()
    pairs = (ingest, *captioned, describe) if config.pairs.on else ()
    trained = (train, train, train) if config.compare_negatives else (train, train)
    return (ingest, embedder, generate, filter, *pairs, *trained, evaluate, report)


RECIPE = Recipe(
    name="instruct_cir",
    config=InstructCir,
    flow=instruct_cir,
    stages=_planned(InstructCir()),
    planned=_planned,
    optional=(caption, describe),
)
