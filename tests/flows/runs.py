"""The toy recipe without Prefect, as its flow would run it."""

from collections.abc import Sequence

from data.config import Resources
from tasks.runs import start_run
from tests.flows.toy import RECIPE, CountConfig, DoubleConfig, ScoreConfig, Toy, count, double, score


def run_toy(
    upto: int = 10, factor: int = 2, explode: bool = False, rerun: Sequence[str] = (), until: str | None = None
) -> str:
    config = Toy(count=CountConfig(upto=upto, explode=explode), double=DoubleConfig(factor=factor))
    with start_run("toy", RECIPE.stage_names, config, rerun, until) as run:
        numbers = count.make(config.count, resources=Resources()).artifact
        product = double.make(config.double, numbers).artifact
        score.make(ScoreConfig(), product)
    return run.id
