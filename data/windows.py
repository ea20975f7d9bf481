"""Windows of a ranking: by rank, by percentile of the pool, or by score."""

import re
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data.config import StageConfig

_WRITTEN = re.compile(r"(?:(rank|percentile|score)s?\s+)?(-?[\d.]+)\s*(?:-|to)\s*(-?[\d.]+)")


class Window(StageConfig):
    """A part of a reference's ranking, both ends included."""

    by: Literal["rank", "percentile", "score"] = Field(
        default="rank",
        description="what low and high are: ranks from 1 without the reference; percent of the ranked pool, the "
        "nearest first; or scores",
    )
    # Ranks 51 to 60, inclusive: MRA-CIR, Method Summary. Absolute ranks mean less in a larger pool (docs/windows.md).
    low: int | float = Field(default=51, description="first rank, percentile or least score of the window")
    high: int | float = Field(default=60, description="last rank, percentile or highest score, inclusive")

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        """Read "51-60", "ranks 51 to 60", "percentile 0-1" or "score 0.8-0.96"; what is no text is left as it is."""
        if not isinstance(value, str):
            return value
        found = _WRITTEN.fullmatch(value.strip())
        if found is None:
            raise ValueError(f"a window is written as 51-60, percentile 0-1 or score 0.8-0.96, got {value!r}")
        return {"by": found[1] or "rank", "low": found[2], "high": found[3]}

    @field_validator("low", "high", mode="after")
    @classmethod
    def _one_way_to_write_it(cls, value: int | float) -> int | float:
        """51.0 is 51, so that both have the same key."""
        return int(value) if value == int(value) else value

    @model_validator(mode="after")
    def _is_a_window(self) -> "Window":
        found = f"got low={self.low}, high={self.high}"
        if self.by != "rank" and not {"low", "high"} <= self.model_fields_set:
            raise ValueError(f"a window by {self.by} needs both low and high")
        if self.by == "rank" and not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise ValueError(f"ranks are whole numbers, {found}")
        if self.by == "rank" and not 1 <= self.low <= self.high:
            raise ValueError(f"need 1 <= low <= high, {found}")
        if self.by == "percentile" and not 0 <= self.low < self.high <= 100:
            raise ValueError(f"percentiles need 0 <= low < high <= 100, {found}")
        if self.by == "score" and not -1 <= self.low <= self.high <= 1:
            raise ValueError(f"scores need -1 <= low <= high <= 1, {found}")
        return self

    def ranks(self, pool: int) -> range | None:
        """The ranks of the window in a pool of so many candidates; None for a window by score.

        A percentile is 100 x rank / pool, so that low < percentile <= high: 0 to 1 of 10,000 candidates are the ranks
        1 to 100, and 1 to 2 the next hundred.

        Raises:
            ValueError: if the percentiles lie between two ranks.
        """
        if self.by == "score":
            return None
        if self.by == "rank":
            return range(int(self.low), int(self.high) + 1)
        # Fractions, because 100 * 0.29 is below 29 in floating point.
        first, last = (int(Fraction(str(end)) * pool / 100) for end in (self.low, self.high))
        if first == last:
            raise ValueError(
                f"{self} of a pool of {pool:,} candidates hold no rank; want a window of at least {100 / pool:.3g} %"
                if pool
                else f"{self} of an empty pool hold no rank; want at least two images"
            )
        return range(first + 1, last + 1)

    def __str__(self) -> str:
        return f"{self.by}s {self.low} to {self.high}"
