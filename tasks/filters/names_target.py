"""Modifications that describe the target instead of the change: the text alone then finds it."""

from collections.abc import Iterator

from pydantic import Field, PositiveInt

from tasks.filters import Filter, Measured, Row, World
from tasks.filters.reference_leak import repeated


class Config(Filter):
    """The value is the share of the target caption's content words that the modification repeats, in [0, 1].

    For English texts. A triplet whose target is a text is measured against that text.
    """

    on: bool = True
    threshold: float = Field(0.9, ge=0, le=1, description="largest share of the target's caption in a modification")
    fewest: PositiveInt = Field(5, description="captions of fewer distinct content words are not judged")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            caption = row["target_caption"] if row["target_text"] is None else row["target_text"]
            yield repeated(row["modification"], caption, self.fewest)
