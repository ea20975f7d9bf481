"""An MLLM is shown both images and the modification, and asked whether the one answers the other."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

import prompts
from tasks.filters import Filter, Measured, Row, World
from tasks.filters._mllm import Asked
from tasks.replies import Rejected
from tasks.requests import Outcome, Question

CHOICES = ("yes", "no")


class Config(Filter, Asked):
    """The value is the probability of a yes beside that of a no, or 1 and 0 where the engine tells no probabilities.

    So it is where they are of another word than the answer's. A triplet for which the judge gives no usable answer is
    kept, and counted.
    """

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_least"
    on: bool = False
    threshold: float = Field(0.5, ge=0, le=1, description="least probability of a yes")
    prompt: str = Field("judge", description="a file of prompts/, asked once per triplet with both images")

    @model_validator(mode="after")
    def _can_ask(self) -> "Config":
        self.check(self.prompt, 2, "verdict")
        return self

    def facts(self) -> dict[str, Any]:
        return self.identity(self.prompt)

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        prompt = prompts.load(self.prompt)
        known = [(row["triplet_id"], row["reference_id"], row["target_id"], row["modification"]) for row in rows]
        questions = (
            Question(triplet, prompt.render(modification=modification), (reference, target))
            for triplet, reference, target, modification in known
            if target is not None
        )
        told = {one.row_id: _read(one) for one in self.answers(self.prompt, questions, world, CHOICES)}
        for triplet, _, _, modification in known:
            found = told.get(triplet, Measured(None, "no_target_image"))
            yield found if found.value is None else found._replace(found=f"{modification!r} is answered {found.found}")


def _read(outcome: Outcome) -> Measured:
    if isinstance(outcome.texts, Rejected):
        return Measured(None, f"judge_{outcome.texts.reason}")
    word = outcome.texts["verdict"].strip().strip(".").lower()
    if word not in CHOICES:
        return Measured(None, "judge_neither_yes_nor_no")
    shares = outcome.probabilities
    # The ledger may have shares from when the first yes or no of an answer counted, as in: I see no fault: {"verdict":
    # "yes"}. They cannot be told from those of a word that was drawn though another was likelier.
    if shares is None or shares[CHOICES.index(word)] < max(shares):
        return Measured(float(word == "yes"), word)
    return Measured(shares[CHOICES.index("yes")], word)
