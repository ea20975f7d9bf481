"""MVFT-JI: a model imagines a change of each image and the text of what comes of it; no target image is needed."""

from collections.abc import Sequence

from prefect import flow
from pydantic import Field, model_validator

from data.config import Resources, StageConfig
from flows.recipe import Recipe
from tasks.curate import CurateConfig, curate
from tasks.encode import EncodeConfig, encode
from tasks.evaluate import EvaluateConfig, evaluate
from tasks.filter import FilterConfig, check_filters, filter
from tasks.generate import check_generator, generate
from tasks.ingest import IngestConfig, ingest
from tasks.plans.mvft_ji import MvftJiGenerate
from tasks.query_texts import QueryTextsConfig, query_texts
from tasks.report import ReportConfig, report
from tasks.target_texts import TargetTextConfig
from tasks.train import MvftJiTrain, train


class QueryWriter(StageConfig):
    """Who writes the target texts of the benchmarks' queries for joint inference."""

    model: str | None = Field(None, description="none: the model that writes the training data")
    prompt: str | None = Field(None, description="a file of prompts/; none: that of the training data")

    def config(self, generate: MvftJiGenerate, evaluate: EvaluateConfig) -> QueryTextsConfig:
        """The stage's settings: all others are those of the training data."""
        writer = TargetTextConfig(
            model=self.model or generate.model,
            backend=generate.backend,
            prompt=self.prompt or generate.target_text_prompt,
            retries=generate.retries,
            sampling=generate.sampling,
            engine=generate.engine,
        )
        return QueryTextsConfig(
            benchmarks=evaluate.benchmarks, split=evaluate.split, options=evaluate.options, writer=writer
        )


class MvftJi(StageConfig):
    """Settings of every stage; the defaults run on the tiny world with the models that come with the repository."""

    ingest: IngestConfig = IngestConfig()
    encode: EncodeConfig = EncodeConfig()
    generate: MvftJiGenerate = MvftJiGenerate()
    filter: FilterConfig = FilterConfig()
    curate: CurateConfig = CurateConfig()
    train: MvftJiTrain = MvftJiTrain()
    query_texts: QueryWriter = QueryWriter()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _generators_have_what_they_need(self) -> "MvftJi":
        check_generator(self.generate, self.resources)
        check_filters(self.filter, self.resources)
        return self


@flow(name="mvft_ji")
def mvft_ji(config: MvftJi, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """From images to a trained retriever, measured alone and in joint inference; returns the id of the run.

    Args:
        config: settings of every stage; `{}` runs on the tiny world.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do; None: all.
    """
    resources = config.resources
    with RECIPE.run(config, rerun, until) as run:
        images = ingest(config.ingest, resources=resources)
        tokens = encode(config.encode, images, resources=resources)
        triplets = generate(config.generate, None, images, resources=resources)
        kept = filter(config.filter, triplets, images, tokens, resources=resources)
        curated = curate(config.curate, kept)
        trained = train(config.train, curated, images, tokens, resources=resources)
        texts = query_texts(config.query_texts.config(config.generate, config.evaluate), resources=resources)
        scores = evaluate(config.evaluate, trained, tokens, texts, resources=resources)
        report(config.report, images, None, None, triplets, trained, scores, tokens=tokens, kept=kept, texts=texts)
    return run.id


RECIPE = Recipe(
    name="mvft_ji",
    config=MvftJi,
    flow=mvft_ji,
    stages=(ingest, encode, generate, filter, curate, train, query_texts, evaluate, report),
)
