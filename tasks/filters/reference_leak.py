"""Modifications that describe the reference: a retriever learns from them to find the reference again."""

from collections.abc import Iterator

from pydantic import Field, PositiveInt

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._words import content


class Config(Filter):
    """The value is the share of the reference caption's content words that the modification repeats, in [0, 1].

    To name the thing that changes takes a few of them; nearly all of them are a description. For English texts.
    """

    on: bool = True
    threshold: float = Field(0.8, ge=0, le=1, description="largest share of the reference's caption in a modification")
    fewest: PositiveInt = Field(5, description="captions of fewer distinct content words are not judged")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            yield repeated(row["modification"], row["reference_caption"], self.fewest)


def repeated(modification: str, caption: str | None, fewest: int) -> Measured:
    """The share of a caption's distinct content words that a modification repeats."""
    if caption is None:
        return Measured(None, "no_caption")
    wanted = set(content(caption))
    if len(wanted) < fewest:
        return Measured(None, "short_caption")
    there = wanted & set(content(modification))
    return Measured(len(there) / len(wanted), f"{modification!r} repeats {', '.join(sorted(there)) or 'nothing'}")
