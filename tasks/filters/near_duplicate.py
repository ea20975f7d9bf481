"""Pairs of nearly the same image, by the score that ranked them: there is no change to write about."""

from collections.abc import Iterator

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World


class Config(Filter):
    """The value is the pair's score, as `rank` gave it. `sample.near_duplicate` does the same before anything is paid.

    Off by default: how alike duplicates score depends on the encoder.
    """

    on: bool = False
    threshold: float = Field(0.98, ge=-1, le=1, description="highest score of a pair")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            if row["score"] is None:
                yield Measured(None, "no_score")
            else:
                yield Measured(float(row["score"]), f"{row['reference_id']} and {row['target_id']}")
