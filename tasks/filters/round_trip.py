"""An MLLM is shown the reference and the modification alone, and writes what comes of it: is that the target?

The check that synthetic triplets get in SynCir and ZeroSight, with the captions that are there already.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

import prompts
from tasks.filters import Filter, Measured, Row, World
from tasks.filters._mllm import Asked
from tasks.filters._words import in_common
from tasks.replies import Rejected
from tasks.requests import Outcome, Question


class Config(Filter, Asked):
    """The value is how much of its words the text that the MLLM writes shares with the target's caption, in [0, 1].

    Words and pairs of neighbouring words are counted, function words left out: twice what both have over all that they
    have. A triplet for which the MLLM gives no usable answer is kept, and counted. For English texts.
    """

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_least"
    on: bool = False
    threshold: float = Field(0.5, ge=0, le=1, description="least share of words in common with the target's caption")
    prompt: str = Field("mvft_ji/target_text", description="a file of prompts/, asked once per triplet with its image")

    @model_validator(mode="after")
    def _can_ask(self) -> "Config":
        self.check(self.prompt, 1, "target_text")
        return self

    def facts(self) -> dict[str, Any]:
        return self.identity(self.prompt)

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        prompt = prompts.load(self.prompt)
        known = [(row["triplet_id"], row["reference_id"], row["target_caption"], row["modification"]) for row in rows]
        questions = (
            Question(triplet, prompt.render(modification=modification), (reference,))
            for triplet, reference, caption, modification in known
            if caption is not None
        )
        told = {one.row_id: one for one in self.answers(self.prompt, questions, world)}
        for triplet, _, caption, modification in known:
            yield Measured(None, "no_caption") if caption is None else _compare(told[triplet], caption, modification)


def _compare(outcome: Outcome, caption: str, modification: str) -> Measured:
    if isinstance(outcome.texts, Rejected):
        return Measured(None, f"round_trip_{outcome.texts.reason}")
    text = outcome.texts["target_text"]
    return Measured(in_common(text, caption), f"{modification!r} leads to {text!r}, not to {caption!r}")
