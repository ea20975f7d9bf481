"""What a generation will come to, before it is paid for: a sample of its rows asked for real, and scaled up."""

import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.artifact import Artifact
from data.config import Resources
from data.schemas import GENERATIONS
from tasks.generate import devices_of, open_asker, terms_of
from tasks.outcomes import Outcomes
from tasks.plans import GenerateConfig, Plan, Row
from tasks.spill import SortedTable
from tasks.writing import Spent, resolved, write_texts

_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Expected:
    """What one prompt will come to, or all together.

    Attributes:
        prompt: its name; "all" for the sum.
        requests: answers needed, retries included.
        to_ask: those of them that are not in the ledger.
        tokens_in, tokens_out: of the answers still to be asked for.
        seconds: of asking for them.
    """

    prompt: str
    requests: int
    to_ask: int
    tokens_in: int
    tokens_out: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a generation will come to.

    Attributes:
        sampled, sources: rows tried, and rows that there are: pairs, or images.
        timed: requests of the sample that the engine answered; 0: the ledger had them all.
        triplets, least, most: expected number, and the ends of its 95 % interval.
        prompts: in the order in which they are asked; `total` is their sum.
        start_seconds: of starting the engine.
        devices: GPUs that work at the same time.
        chunk: requests handed to the engine at once, in the sample as in the run.
    """

    sampled: int
    sources: int
    timed: int
    triplets: int
    least: int
    most: int
    prompts: tuple[Expected, ...]
    total: Expected
    start_seconds: float
    devices: int
    chunk: int

    @property
    def hours(self) -> float:
        """Wall-clock hours of the run, the start included."""
        return (self.total.seconds + (self.start_seconds if self.total.to_ask else 0.0)) / 3600

    def money(self, price: float) -> float:
        """What the run costs at a price per GPU hour."""
        return self.hours * self.devices * price


def estimate(
    config: GenerateConfig,
    pairs: Artifact | None,
    images: Artifact,
    resources: Resources,
    rows: int,
    seed: int | None = None,
) -> Estimate:
    """Ask for a sample of the rows, which the run will then find in the ledger, and scale it up.

    Captions are scaled by the number of images, the other prompts by the number of rows. The sample is drawn anew
    every time: one that was tried before would be all in the ledger, and tell nothing of the rest.

    Args:
        config, pairs, images, resources: as of `tasks.generate.generate`.
        rows: how many pairs or images to try; all, if there are fewer.
        seed: of the draw, for tests; None: from the clock.

    Raises:
        ValueError: if there is nothing to sample.
    """
    plan = config.plan(pairs, images)
    if not plan.sources:
        raise ValueError("there is no row to estimate from: no pair or image came in")
    sample = _sampled(plan, min(rows, plan.sources), random.Random(seed))
    terms = terms_of(config, images)
    with tempfile.TemporaryDirectory(prefix="estimate-") as name, Outcomes(Path(name) / "outcomes.sqlite") as outcomes:
        generations = SortedTable(Path(name) / "unsorted", GENERATIONS, "request_id")
        with open_asker(config, plan, terms, resources, generations) as asker:
            spent = write_texts(sample, asker, outcomes)
        written = sum(one.fault is None for one in resolved(sample, outcomes))
    expected = [_scaled(plan, sample, one) for one in spent]
    wanted, tried = plan.sources * plan.texts, sample.sources * plan.texts
    low, high = _interval(written, tried) if tried < wanted else (written / tried, written / tried)
    return Estimate(
        sampled=sample.sources,
        sources=plan.sources,
        timed=asker.figures.asked,
        triplets=round(written / tried * wanted),
        least=math.floor(low * wanted),
        most=math.ceil(high * wanted),
        prompts=tuple(expected),
        total=_sum(expected),
        start_seconds=asker.figures.start_seconds,
        devices=devices_of(config, resources),
        chunk=resources.chunk,
    )


def _scaled(plan: Plan, sample: Plan, spent: Spent) -> Expected:
    """What a prompt came to in the sample, for the whole plan."""
    captions = plan.caption_prompt is not None and spent.prompt == plan.caption_prompt.name
    scale = len(plan.captioned) / max(1, len(sample.captioned)) if captions else plan.sources / sample.sources
    known = spent.asked + spent.reused
    share = spent.asked / known if known else 0.0  # tokens are counted for all answers read
    return Expected(
        spent.prompt,
        round(known * scale),
        round(spent.asked * scale),
        round(spent.tokens_in * share * scale),
        round(spent.tokens_out * share * scale),
        spent.seconds * scale,
    )


def _sampled(plan: Plan, count: int, rng: random.Random) -> Plan:
    """The plan for some of its sources."""
    chosen = set(rng.sample(range(plan.sources), count))
    groups = groupby(plan.rows(), key=lambda row: row.source)
    rows = [row for place, (_, group) in enumerate(groups) if place in chosen for row in group]
    images = {image_id for row in rows for image_id in (row.reference_id, row.target_id) if image_id is not None}
    wanted = pa.array(sorted(images), pa.string())
    captioned = plan.captioned.filter(pc.is_in(plan.captioned, value_set=wanted))
    return replace(plan, sources=count, rows=partial(_again, rows), captioned=captioned)


def _again(rows: list[Row]) -> Iterator[Row]:
    return iter(rows)


def _interval(hits: int, tried: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (E. B. Wilson, 1927)."""
    share, square = hits / tried, _Z**2 / tried
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / tried + square / (4 * tried)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def _sum(expected: list[Expected]) -> Expected:
    return Expected(
        "all",
        sum(one.requests for one in expected),
        sum(one.to_ask for one in expected),
        sum(one.tokens_in for one in expected),
        sum(one.tokens_out for one in expected),
        sum(one.seconds for one in expected),
    )
