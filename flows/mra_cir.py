"""MRA-CIR: modifications between images of near rank, and a retriever trained on them."""

from collections import Counter
from collections.abc import Sequence

from prefect import flow
from pydantic import Field, model_validator

from data.config import Resources, StageConfig
from flows.recipe import Recipe
from tasks.caption import CaptionConfig, caption
from tasks.curate import CurateConfig, curate
from tasks.encode import EncodeConfig, encode
from tasks.evaluate import EvaluateConfig, evaluate
from tasks.filter import FilterConfig, check_filters, filter
from tasks.generate import check_generator, generate
from tasks.ingest import IngestConfig, ingest
from tasks.mine import MineConfig, mine
from tasks.plans.mra_cir import MraCirGenerate
from tasks.rank import RankConfig, rank
from tasks.report import ReportConfig, report
from tasks.sample import SampleConfig, sample
from tasks.stage import Stage
from tasks.train import TrainConfig, train
from tasks.unite import UniteConfig, unite
from tasks.windows import WindowsConfig, windows


class View(StageConfig):
    """Another similarity that finds pairs: what is encoded by which network, ranked and sampled how.

    Its name is `sample.view`. Similarities of different networks are not comparable, so each view has its own filters.
    """

    caption: CaptionConfig | None = Field(
        default=None, description="who captions every image, where encode.of=caption; none: the source's captions"
    )
    encode: EncodeConfig
    rank: RankConfig = RankConfig()
    sample: SampleConfig

    @model_validator(mode="after")
    def _captions_are_read(self) -> "View":
        if self.caption is not None and self.encode.of != "caption":
            raise ValueError('captions are written but not read; set encode.of to "caption" or leave out `caption`')
        return self


class MraCir(StageConfig):
    """Settings of every stage; the defaults run on the tiny world with the models that come with the repository."""

    ingest: IngestConfig = IngestConfig()
    encode: EncodeConfig = EncodeConfig()
    rank: RankConfig = RankConfig()
    sample: SampleConfig = SampleConfig()
    windows: WindowsConfig = WindowsConfig()
    views: tuple[View, ...] = Field(
        default=(), description="further views whose pairs are united with those of the tokens; see docs/windows.md"
    )
    generate: MraCirGenerate = MraCirGenerate()
    filter: FilterConfig = FilterConfig()
    curate: CurateConfig = CurateConfig()
    mine: MineConfig = MineConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _generators_have_what_they_need(self) -> "MraCir":
        check_generator(self.generate, self.resources)
        check_filters(self.filter, self.resources)
        return self

    @model_validator(mode="after")
    def _views_have_names(self) -> "MraCir":
        names = [self.sample.view, *(view.sample.view for view in self.views)]
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice:
            raise ValueError(f"two views are called {twice[0]!r}; give each a name of its own with sample.view")
        return self

    @model_validator(mode="after")
    def _stages_fit_each_other(self) -> "MraCir":
        """What would come to light only after hours of work."""
        for ranked, sampled in ((self.rank, self.sample), *((view.rank, view.sample) for view in self.views)):
            high, depth = sampled.high, ranked.depth
            if sampled.by == "rank" and high > depth:
                raise ValueError(
                    f"the window of sample ends at rank {high}, but rank keeps {depth} candidates; set"
                    f" rank.depth={high} or more"
                )
        if self.train.hard_negatives and not self.mine.count:
            count = self.train.hard_negatives
            raise ValueError(f"train.hard_negatives={count}, but none are mined; set mine.count={count} or more")
        return self


@flow(name="mra_cir")
def mra_cir(config: MraCir, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """From images to a trained and measured retriever; returns the id of the run.

    Args:
        config: settings of every stage; `{}` gives the demo.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do; None: all.
    """
    resources = config.resources
    with RECIPE.run(config, rerun, until) as run:
        images = ingest(config.ingest, resources=resources)
        tokens = encode(config.encode, images, resources=resources)
        # Mining looks up what is near the targets, so it needs the others' rankings too.
        asked = config.rank if config.mine.count else config.rank.limited(config.sample.limit, config.sample.seed)
        ranking = rank(asked, tokens, resources=resources)
        pairs = sample(config.sample, ranking)
        compared = windows(config.windows, ranking)
        united = pairs
        for view in config.views:
            texts = None if view.caption is None else caption(view.caption, images, resources=resources)
            seen = encode(view.encode, images, texts, resources=resources)
            asked = view.rank.limited(view.sample.limit, view.sample.seed)
            found = sample(view.sample, rank(asked, seen, resources=resources))
            united = unite(UniteConfig(), united, found)
        triplets = generate(config.generate, united, images, resources=resources)
        kept = filter(config.filter, triplets, images, tokens, resources=resources)
        curated = curate(config.curate, kept)
        armed = mine(config.mine, curated, ranking, tokens)
        trained = train(config.train, armed, images, tokens, resources=resources)
        scores = evaluate(config.evaluate, trained, tokens, resources=resources)
        report(
            config.report, images, ranking, pairs, triplets, trained, scores, tokens=tokens, windows=compared,
            united=united if config.views else None, kept=kept,
        )  # fmt: skip
    return run.id


PAIRING = (ingest, encode, rank, sample, windows)
AFTER = (generate, filter, curate, mine, train, evaluate, report)


def _planned(config: MraCir) -> tuple[Stage[...], ...]:
    """Each view is captioned, if it asks for that, encoded, ranked, sampled and united."""
    views: list[Stage[...]] = []
    for view in config.views:
        views += [*([] if view.caption is None else [caption]), encode, rank, sample, unite]
    return (*PAIRING, *views, *AFTER)


RECIPE = Recipe(
    name="mra_cir",
    config=MraCir,
    flow=mra_cir,
    stages=(*PAIRING, *AFTER),
    planned=_planned,
    optional=(caption, unite),
)
