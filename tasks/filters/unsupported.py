"""Modifications that claim what the captions do not bear out: of things that are not there, or do not change."""

from collections.abc import Iterator

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._claims import Change, claims


class Config(Filter):
    """The value is the share of the modification's telling words in claims that the captions do not bear out, in
    [0, 1]: a claim should hold of the target's caption and not of the reference's. What is borne out in part counts
    in part. The target's text stands for its caption. Which thing became which is taken as the claims need it, where
    that costs less: 0.5 for two things as unlike as can be in place of two as like as can be.

    Off by default: a caption of a photograph leaves much unsaid. For English texts.
    """

    on: bool = False
    threshold: float = Field(0.3, ge=0, le=1, description="largest share of words that the captions do not bear out")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            reference, target = row["reference_caption"], row["target_caption"] or row["target_text"]
            if not reference or not target:
                yield Measured(None, "no_caption")
                continue
            said = claims(row["modification"])
            value, doubts = Change(reference, target).doubts(said)
            doubted = "; ".join(
                dict.fromkeys(repr(claim.text) for claim, doubt in zip(said, doubts, strict=True) if doubt)
            )
            yield Measured(value, f"not borne out by {reference!r} and {target!r}: {doubted}")
