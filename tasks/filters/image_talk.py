"""Modifications that speak of the images as such: "unlike the first image". Nobody who searches has two."""

import re
from collections.abc import Iterator

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World

_IMAGE = r"(?:images?|pictures?|photos?|photographs?|pics?|frames?)"
_WHICH = (
    r"(?:first|second|1st|2nd|former|latter|other|previous|left|right|left-hand|right-hand|reference|target|source|"
    r"query|original|initial|candidate|given|provided|input|output|modified|edited|resulting|final)"
)
_TALK = re.compile(
    rf"\b{_WHICH} {_IMAGE}\b|\b{_IMAGE} (?:1|2|one|two|a|b)\b|\b(?:both|two|these|between the|of the two) {_IMAGE}\b|"
    r"\bin the (?:reference|target|first one|second one)\b|\bthe (?:reference|target)(?: shows| has| is)\b",
    re.IGNORECASE,
)


class Config(Filter):
    """The value is how often the text speaks so. For English texts."""

    on: bool = True
    threshold: float = Field(0, ge=0, description="most mentions of an image as the first, the second, the target")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            found = [match.group(0) for match in _TALK.finditer(row["modification"])]
            yield Measured(float(len(found)), ", ".join(found))
