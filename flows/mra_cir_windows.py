"""MRA-CIR's sweep of windows: a retriever trained on the pairs of each, in one table."""

from collections.abc import Sequence
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field, PositiveInt

from data.artifact import Artifact
from data.windows import Window
from flows.mra_cir import MraCir
from flows.recipe import Recipe
from flows.study import Study
from tasks.compare import CompareConfig, Variant, compare
from tasks.encode import encode
from tasks.evaluate import EvaluateConfig, evaluate
from tasks.filter import filter
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.rank import rank
from tasks.sample import SampleConfig, sample
from tasks.train import train
from tasks.windows import WINDOWS, WindowsConfig, windows

Kind = Literal["rank", "percentile", "score"]


class MraCirWindows(MraCir):
    """Settings of mra_cir, and the windows that are trained on."""

    ranks: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)] = Field(
        ((51, 60), (1, 1), (11, 20), (31, 40), (91, 100)),
        description="the paper's windows; the first is what the others are compared with",
    )
    by: Annotated[tuple[Kind, ...], Field(min_length=1)] = Field(
        ("rank",),
        description="rank: as they are; percentile: the same share of this pool as of the paper's; score: the band of"
        " similarities, 5th to 95th percentile, that this pool has at these ranks",
    )
    pool: PositiveInt = Field(10_000, description="images of the paper's pool, for percentile")
    evaluate: EvaluateConfig = EvaluateConfig(baselines=())


@flow(name="mra_cir_windows")
def mra_cir_windows(config: MraCirWindows, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """Train MRA-CIR on the pairs of several windows, and compare; returns the id of the run.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do, at its first call; None: all.
    """
    with RECIPE.run(config, rerun, until) as run:
        study = Study(config)
        ranking = study.ranked(config)
        evaluations: dict[str, Artifact] = {}
        variants = []
        for label, window in swept(config, ranking):
            try:
                window.ranks(ranking.counts.read - 1)
            except ValueError as error:  # percentiles between two ranks
                variants.append(Variant(label=label, source=None, method="composed", note=str(error)))
                continue
            drawn = SampleConfig.model_validate({**config.sample.model_dump(), **window.model_dump()})
            pairs = sample(drawn, ranking)
            kept = study.written(config.generate, pairs)
            evaluations[label] = study.measured(study.trained(config.train, kept))
            note = f"{pairs.counts.kept:,} pairs, {kept.counts.kept:,} triplets"
            variants.append(Variant(label=label, source=label, method="composed", note=note))
        compare(CompareConfig(title="Windows", variants=tuple(variants), tags=True), evaluations)
    return run.id


def swept(config: MraCirWindows, ranking: Artifact) -> list[tuple[str, Window]]:
    """The windows with their names, those by rank first."""
    ranks = [Window(low=low, high=high) for low, high in config.ranks]
    found: list[tuple[str, Window]] = []
    for kind in sorted(config.by, key=("rank", "percentile", "score").index):
        if kind == "rank":
            found += [(str(window), window) for window in ranks]
        elif kind == "percentile":
            for low, high in config.ranks:
                ends = [round(100 * end / config.pool, 6) for end in (low - 1, high)]
                found.append(
                    (f"percentiles {ends[0]:g} to {ends[1]:g}", Window(by="percentile", low=ends[0], high=ends[1]))
                )
        else:
            table = windows(WindowsConfig(windows=tuple(ranks), examples=0), ranking)
            for row in table.read(WINDOWS, "windows.parquet").to_pylist():
                low, high = (round(row[name], 3) for name in ("score_5", "score_95"))
                found.append((f"scores {low:g} to {high:g} ({row['window']})", Window(by="score", low=low, high=high)))
    return found


RECIPE = Recipe(
    name="mra_cir_windows",
    config=MraCirWindows,
    flow=mra_cir_windows,
    stages=(ingest, encode, rank, sample, generate, filter, train, evaluate, compare),
)
