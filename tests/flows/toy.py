"""A recipe of three stages that need no model, for the tests of everything around stages."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from prefect import flow
from pydantic import PositiveInt

from data.artifact import Artifact, Counts, write_table
from data.config import Resources, StageConfig
from data.progress import progress
from data.schemas import SCORES
from flows.recipe import Recipe
from tasks.stage import stage


class CountConfig(StageConfig):
    upto: PositiveInt = 10
    explode: bool = False


class DoubleConfig(StageConfig):
    factor: PositiveInt = 2


class ScoreConfig(StageConfig):
    digits: PositiveInt = 1


@stage()
def count(out: Path, config: CountConfig, *, resources: Resources) -> Counts:
    """One part per number, kept if odd; finished parts are not made again.

    Before part 3 it waits for the file that TOY_GATE names, if it names one.
    """
    gate = os.environ.get("TOY_GATE")
    with progress(config.upto) as advance:
        for number in range(config.upto):
            part = out / f"part-{number}"
            if not part.exists():
                with (out / "calls").open("a") as calls:
                    calls.write(f"{number}\n")
                while number == 3 and gate and not Path(gate).exists():
                    time.sleep(0.05)
                part.write_text(str(number))
            advance(1)
    if config.explode:
        raise ValueError(f"found {config.upto} numbers, expected none; use fewer")
    kept = config.upto // 2
    return Counts(read=config.upto, kept=kept, dropped={"even": config.upto - kept}, written=config.upto)


@stage()
def double(out: Path, config: DoubleConfig, numbers: Artifact) -> Counts:
    """The number of parts, multiplied."""
    parts = len(list(numbers.path.glob("part-*")))
    (out / "product").write_text(str(parts * config.factor))
    return Counts(read=parts, kept=parts, written=1)


@stage()
def score(out: Path, config: ScoreConfig, product: Artifact) -> Counts:
    """A table of scores and a report, as the end of a recipe leaves them."""
    value = float(product.file("product").read_text())
    row = {"benchmark": "toys", "split": "val", "protocol": "{}", "metric": "recall@1", "low": 1.0, "high": 99.0}
    rows = [
        {**row, "method": "composed", "value": value, "queries": 500, "seeds": 3},
        {**row, "method": "image_only", "value": 12.34, "queries": 500, "seeds": 1},
    ]
    write_table(out / "scores.parquet", pa.Table.from_pylist(rows, schema=SCORES), SCORES)
    (out / "report.html").write_text("<p>toys</p>")
    return Counts(read=1, kept=1, written=2)


class Toy(StageConfig):
    count: CountConfig = CountConfig()
    double: DoubleConfig = DoubleConfig()
    score: ScoreConfig = ScoreConfig()
    resources: Resources = Resources()


@flow(name="toy")
def toy(config: Toy, rerun: Sequence[str] = (), until: str | None = None) -> str:
    with RECIPE.run(config, rerun, until) as run:
        numbers = count(config.count, resources=config.resources)
        product = double(config.double, numbers)
        score(config.score, product)
    return run.id


RECIPE = Recipe(name="toy", config=Toy, flow=toy, stages=(count, double, score))
