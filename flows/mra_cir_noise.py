"""What wrong modifications cost MRA-CIR, and what a judge and one round of rewriting save; with the truth beside it."""

from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow
from pydantic import Field, model_validator

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
from tasks.rank import rank
from tasks.sample import sample
from tasks.train import train
from tasks.triplet_sets import AgainConfig, MergeConfig, SpoilConfig, again, merge, renew, spoil
from tasks.truth import TruthConfig, truth


class MraCirNoise(MraCir):
    """Settings of mra_cir, and how many modifications are exchanged for wrong ones. Only for the tiny world."""

    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = Field(
        (0.1, 0.3), description="of the triplets that get a wrong modification; the last is judged and rewritten"
    )
    rewrite_temperature: Annotated[float, Field(gt=0, le=2, description="of the second modification")] = 0.7
    evaluate: EvaluateConfig = EvaluateConfig(baselines=())

    @model_validator(mode="after")
    def _truth_is_known(self) -> "MraCirNoise":
        if self.ingest.source != "tiny_world":
            found = self.ingest.source
            raise ValueError(f"which triplets are right is known of ingest.source=tiny_world only, not of {found!r}")
        return self


@flow(name="mra_cir_noise")
def mra_cir_noise(config: MraCirNoise, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """Train on triplets with more and more wrong modifications, and on what is saved of them; returns the run's id.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do, at its first call; None: all.
    """
    resources = config.resources
    judge: dict[str, Any] = {"judge": {**config.filter.judge.model_dump(), "on": True}}
    with RECIPE.run(config, rerun, until) as run:
        study = Study(config)
        images, tokens = study.images, study.tokens
        plain = study.written(config.generate, study.paired(config)[1])
        sets: dict[str, Artifact] = {"as written": plain}
        for share in config.shares:
            sets[f"{100 * share:g} % wrong"] = spoil(SpoilConfig(share=share), plain)
        worst, spoiled = list(sets.items())[-1]
        strict = changed(config.filter, **judge)
        sets[f"{worst}, judged"] = judged = filter(strict, spoiled, images, tokens, resources=resources)
        sampling = {**config.generate.sampling.model_dump(), "temperature": config.rewrite_temperature}
        second = changed(config.generate, sampling=sampling)
        rewritten = generate(second, again(AgainConfig(), judged), images, resources=resources)
        better = filter(strict, renew(AgainConfig(), rewritten, judged), images, tokens, resources=resources)
        sets[f"{worst}, judged, rewritten"] = merge(MergeConfig(), {"judged": judged, "rewritten": better})
        sets["as written, judged"] = filter(strict, plain, images, tokens, resources=resources)
        evaluations, variants = {}, []
        for label, made in sets.items():
            known = truth(TruthConfig(seed=config.ingest.seed), made).counts
            evaluations[label] = study.measured(study.trained(config.train, made))
            share_right = float(str(known.detail["right"]))
            note = f"{known.read:,} triplets, {known.detail['low']} to {known.detail['high']} % right"
            variants.append(Variant(label=label, source=label, method="composed", note=note, along=share_right))
        settings = CompareConfig(title="Wrong modifications", variants=tuple(variants), along="% right")
        compare(settings, evaluations)
    return run.id


RECIPE = Recipe(
    name="mra_cir_noise",
    config=MraCirNoise,
    flow=mra_cir_noise,
    stages=(
        *(ingest, encode, rank, sample, generate, filter, spoil, again, renew, merge, truth, train, evaluate, compare),
    ),
)
