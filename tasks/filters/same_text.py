"""Target texts too close to the reference's caption: the change did not reach them."""

from collections.abc import Iterator
from difflib import SequenceMatcher

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._words import words


class Config(Filter):
    """The value is the similarity of the two texts, word by word: 2 M / T, M of all T words being in matching runs."""

    on: bool = True
    threshold: float = Field(0.98, ge=0, le=1, description="largest similarity of target text and reference caption")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            text, caption = row["target_text"], row["reference_caption"]
            if text is None or caption is None:
                yield Measured(None, "no_target_text" if text is None else "no_caption")
                continue
            pair = SequenceMatcher(None, words(caption), words(text), autojunk=False)
            yield Measured(pair.ratio(), f"{caption!r} became {text!r}")
