"""Triplets whose reference alone finds the target: a retriever learns from them to overlook the text."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from tasks.filters import Filter, Measured, Row, World

if TYPE_CHECKING:
    from tasks.filters._ranks import Gallery


class Config(Filter):
    """The value is the target's rank when the encoder is asked with the reference's tokens only (image_only of
    `models.baselines`), among the pool or a sample of it; the reference itself is no candidate.

    With pairs from a window of ranks this says what the window said, of the pool as it is now.
    """

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_least"
    on: bool = False
    threshold: float = Field(2, ge=1, description="lowest rank of the target, from 1; 2: it must not come first")
    gallery: PositiveInt = Field(2000, description="images that it is ranked among, drawn by seed")
    seed: int = 0

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        from tasks.filters._ranks import gallery_of  # torch takes seconds to import

        gallery = gallery_of(world, self.gallery, self.seed)
        while some := list(islice(rows, world.resources.batch_size)):
            yield from _measure(some, gallery)


def _measure(rows: list[Row], gallery: "Gallery") -> Iterator[Measured]:
    from tasks.filters._ranks import ranks

    asked = [row for row in rows if row["target_id"] is not None]
    found = np.empty(0, dtype=np.int64)
    if asked:
        places = [gallery.place[row["reference_id"]] for row in asked]
        queries = np.asarray(gallery.pool.tokens[places], dtype=np.float32)
        targets, references = ([row[name] for row in asked] for name in ("target_id", "reference_id"))
        found = ranks(queries, targets, references, gallery)
    answers = iter(found.tolist())
    for row in rows:
        if row["target_id"] is None:
            yield Measured(None, "no_target_image")
        else:
            rank = next(answers)
            yield Measured(float(rank), f"{row['reference_id']} alone ranks {row['target_id']} {rank}")
