"""Modifications that would fit almost any pair: "make it different"."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._words import telling


class Config(Filter):
    """The value is the number of distinct words that say what changes. For English texts."""

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_least"
    on: bool = True
    threshold: float = Field(1, ge=0, description="fewest distinct words that are neither function words nor vague")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            yield Measured(float(len(set(telling(row["modification"])))), row["modification"])
