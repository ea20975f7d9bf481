"""Pairs with so little in common that no one change leads from the reference to the target."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._words import in_common


class Config(Filter):
    """The value is how much both captions have in common (`in_common`), in [0, 1]; the target's text stands for its
    caption. Off by default: captions of photographs leave much unsaid. For English texts."""

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_least"
    on: bool = False
    threshold: float = Field(0.3, ge=0, le=1, description="least share of words that both captions have in common")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            reference, target = row["reference_caption"], row["target_caption"] or row["target_text"]
            if not reference or not target:
                yield Measured(None, "no_caption")
                continue
            yield Measured(in_common(reference, target), f"{reference!r} and {target!r} are far apart")
