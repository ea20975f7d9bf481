"""Pairs of the same picture, by perceptual hash: another size, another crop by a hair, another compression."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._hashes import ingested


class Config(Filter):
    """The value is the number of bits, of 64, in which the perceptual hashes of reference and target differ."""

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_least"
    on: bool = False
    threshold: float = Field(5, ge=0, le=64, description="fewest differing bits, of 64")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        known = [(row["reference_id"], row["target_id"]) for row in rows]
        found = ingested(world, {image for pair in known for image in pair if image is not None})
        for reference, target in known:
            if target is None:
                yield Measured(None, "no_target_image")
            else:
                differing = (found[reference] ^ found[target]).bit_count()
                yield Measured(float(differing), f"{reference} and {target} differ in {differing} of 64 bits")
