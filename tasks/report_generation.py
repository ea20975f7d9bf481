"""What the report says of the writing of texts: requests, tokens, speed, and money where a price is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.artifact import Artifact
from tasks.lineage import lineage

STAGE = "generate"


@dataclass(frozen=True)
class Generation:
    """Figures of a generation.

    Attributes:
        facts: names and values, as they are shown.
        prompts: one row per prompt: name, asked, reused, retries, tokens in, tokens out, seconds.
        rejections: answers that could not be used, by reason, the most frequent first.
    """

    facts: list[tuple[str, str]]
    prompts: list[tuple[str, int, int, int, int, int, float]]
    rejections: list[tuple[str, int]]


def generation(triplets: Artifact, price: float | None) -> Generation | None:
    """Figures of the stage `generate` that triplets come from; None if they come from elsewhere.

    Args:
        triplets: its artifact, or one made from it.
        price: of one GPU hour; None: nothing is said of money.
    """
    made = next((one for one in reversed(lineage(triplets)) if one.stage == STAGE), None)
    if made is None or "asked" not in made.counts.detail:
        return None
    detail: dict[str, Any] = dict(made.counts.detail)
    figures = ("asked", "reused", "retries", "tokens_in", "tokens_out", "seconds")
    prompts = [(name, *(row[one] for one in figures)) for name, row in detail.get("prompts", {}).items()]
    rejections = sorted(detail["rejections"].items(), key=lambda entry: (-entry[1], entry[0]))
    return Generation(
        [*_facts(detail, made.counts.written), *_money(detail, made.counts.written, price)], prompts, rejections
    )


def _facts(detail: Mapping[str, Any], written: int) -> list[tuple[str, str]]:
    asked, seconds = detail["asked"], detail["engine_seconds"]
    facts = [
        ("triplets", f"{written:,}"),
        ("answers", f"{asked + detail['reused']:,}, of which {asked:,} were asked for in this run"),
        ("retries", f"{detail['retries']:,}"),
        ("tokens in", f"{detail['tokens_in']:,}"),
        ("tokens out", f"{detail['tokens_out']:,}"),
    ]
    if asked and seconds:
        facts += [("answers per second", f"{asked / seconds:,.1f}")]
        if not detail["reused"]:
            facts += [("triplets per second", f"{written / seconds:,.2f}")]
    return facts


def _money(detail: Mapping[str, Any], written: int, price: float | None) -> list[tuple[str, str]]:
    """At this run's speed, for all answers: also for those that an earlier run paid for."""
    asked, seconds = detail["asked"], detail["engine_seconds"]
    if price is None or not asked or not written:
        return []
    hour = price * detail.get("devices", 1) / 3600
    whole = seconds / asked * (asked + detail["reused"]) * hour
    return [
        ("cost of this run", f"{(seconds + detail['start_seconds']) * hour:,.2f} at {price:,.2f} per GPU hour"),
        ("cost per thousand triplets", f"{whole / written * 1000:,.4g}, all answers counted at this run's speed"),
    ]
