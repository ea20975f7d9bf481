"""The small checkpoints in models/checkpoints, made from nothing: at most two hours on two cores."""

from collections.abc import Sequence

from prefect import flow

from data.config import Resources, StageConfig
from flows.recipe import Recipe
from tasks.examine import ExamineConfig, PublishConfig, examine, publish
from tasks.pretrain import PretrainConfig, pretrain
from tasks.see import SeeConfig, see
from tasks.teach import TeachConfig, teach


class TinyModels(StageConfig):
    """Settings of every stage. `teach.layers=2 teach.steps=1500` makes a weaker MLLM, for comparisons."""

    pretrain: PretrainConfig = PretrainConfig()
    see: SeeConfig = SeeConfig()
    teach: TeachConfig = TeachConfig()
    examine: ExamineConfig = ExamineConfig()
    publish: PublishConfig = PublishConfig()
    resources: Resources = Resources()


@flow(name="tiny_models")
def tiny_models(config: TinyModels, rerun: Sequence[str] = (), until: str | None = None) -> str:
    """Train, examine and publish the small BLIP-2 and the small MLLM; returns the id of the run.

    Args:
        config: settings of every stage.
        rerun: stages to make anew, with everything built on them.
        until: the last stage to do; None: all.
    """
    with RECIPE.run(config, rerun, until) as run:
        pretrained = pretrain(config.pretrain)
        seen = see(config.see)
        taught = teach(config.teach, seen, resources=config.resources)
        examined = examine(config.examine, taught, resources=config.resources)
        publish(config.publish, pretrained, taught, examined)
    return run.id


RECIPE = Recipe(
    name="tiny_models",
    config=TinyModels,
    flow=tiny_models,
    stages=(pretrain, see, teach, examine, publish),
)
