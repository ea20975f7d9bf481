"""MegaPairs' triplets instead of our own: a retriever trained on imported rows, measured as the others are."""

from collections.abc import Sequence

from prefect import flow

from data.config import Resources, StageConfig
from flows.recipe import Recipe
from tasks.encode import EncodeConfig, encode
from tasks.evaluate import EvaluateConfig, evaluate
from tasks.ingest import IngestConfig, ingest
from tasks.megapairs import MegaPairsConfig, megapairs
from tasks.report import ReportConfig, report
from tasks.train import TrainConfig, train


class MegaPairs(StageConfig):
    """Settings of every stage; ingest.source=folder, ingest.path and megapairs.path have to be given."""

    ingest: IngestConfig = IngestConfig()
    encode: EncodeConfig = EncodeConfig()
    megapairs: MegaPairsConfig = MegaPairsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    resources: Resources = Resources()


@flow(name="megapairs")
def megapairs_flow(config: MegaPairs, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """From a folder of images and MegaPairs rows about them to a trained retriever; returns the id of the run.

    Args:
        config: settings of every stage.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do; None: all.
    """
    resources = config.resources
    with RECIPE.run(config, rerun, until) as run:
        config.megapairs.files()  # a missing file is told before any work
        images = ingest(config.ingest, resources=resources)
        triplets = megapairs(config.megapairs, images)
        tokens = encode(config.encode, images, resources=resources)
        trained = train(config.train, triplets, images, tokens, resources=resources)
        scores = evaluate(config.evaluate, trained, tokens, resources=resources)
        report(config.report, images, None, None, triplets, trained, scores, tokens=tokens)
    return run.id


RECIPE = Recipe(
    name="megapairs",
    config=MegaPairs,
    flow=megapairs_flow,
    stages=(ingest, megapairs, encode, train, evaluate, report),
)
