"""One retriever trained on the triplets of both recipes at once, with hard negatives: beyond the papers."""

from collections.abc import Sequence

from prefect import flow
from pydantic import Field, PositiveInt

from data.artifact import Artifact
from flows.mra_cir import MraCir
from flows.mvft_ji import QueryWriter
from flows.recipe import Recipe, changed
from flows.study import Study
from tasks.compare import CompareConfig, Variant, compare
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.filter import filter
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.mine import MineConfig, mine
from tasks.plans.mvft_ji import MvftJiGenerate
from tasks.query_texts import query_texts
from tasks.rank import rank
from tasks.sample import sample
from tasks.train import train
from tasks.triplet_sets import MergeConfig, merge

MRA, MVFT, BOTH = "MRA-CIR", "MVFT-JI", "both"


class SeveralSources(MraCir):
    """Settings of mra_cir, what mvft_ji adds, and the hard negatives."""

    mvft: MvftJiGenerate = MvftJiGenerate()
    query_texts: QueryWriter = QueryWriter()
    hard_negatives: PositiveInt = Field(4, description="of each triplet, in the rows with hard negatives")


@flow(name="several_sources")
def several_sources(config: SeveralSources, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """Train on MRA-CIR's triplets, on MVFT-JI's, on both, and on both with hard negatives; returns the id of the run.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do, at its first call; None: all.
    """
    with RECIPE.run(config, rerun, until) as run:
        study = Study(config)
        ranking, pairs = study.paired(config)
        pictured, told = study.written(config.generate, pairs), study.written(config.mvft)
        armed = [mine(MineConfig(count=config.hard_negatives), one, ranking, study.tokens) for one in (pictured, told)]
        sets: dict[str, tuple[Artifact, tuple[str, ...], int]] = {
            MRA: (pictured, ("composed_image",), 0),
            MVFT: (told, ("composed_text", "caption_image"), 0),
        }
        every = ("composed_image", "composed_text", "caption_image")
        sets[BOTH] = (merge(MergeConfig(), {MRA: pictured, MVFT: told}), every, 0)
        hard = merge(MergeConfig(), dict(zip((MRA, MVFT), armed, strict=True)))
        sets[f"{BOTH}, hard negatives"] = (hard, every, config.hard_negatives)
        texts = query_texts(config.query_texts.config(config.mvft, config.evaluate), resources=config.resources)
        evaluations: dict[str, Artifact] = {}
        variants = []
        for label, (triplets, losses, count) in sets.items():
            trained = study.trained(changed(config.train, losses=losses, hard_negatives=count), triplets)
            evaluations[label] = study.measured(trained, texts, alone=True)
            figures = trained.counts.detail
            note = f"{figures['training']:,} triplets, {figures['steps']:,.0f} steps"
            variants.append(Variant(label=label, source=label, method="composed", note=note))
        joint = [Variant(label=f"{one.label}: joint", source=one.source, method="joint") for one in variants]
        compare(CompareConfig(title="Several sources at once", variants=(*variants, *joint)), evaluations)
    return run.id


RECIPE = Recipe(
    name="several_sources",
    config=SeveralSources,
    flow=several_sources,
    stages=(*(ingest, encode, rank, sample, generate, filter, mine, merge, query_texts, train, evaluate, compare),),
)
