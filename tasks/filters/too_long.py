"""Modifications of more words than anybody would type: descriptions, lists of trifles, loops."""

from collections.abc import Iterator

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._words import words


class Config(Filter):
    """The value is the number of words."""

    on: bool = True
    # BLIP-2's Q-Former reads 32 word pieces of a text in its published use; what comes later is cut off.
    threshold: float = Field(50, ge=1, description="most words of a modification")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            yield Measured(float(len(words(row["modification"]))), row["modification"])
