"""Filters that ask an MLLM: who is asked, and the way of a question through ledger, engine and parser."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import Field, NonNegativeInt

import prompts
from data.config import StageConfig
from models.backends import Engine, Sampling, load_backend, locate_model
from tasks.asking import Asker
from tasks.filters import World
from tasks.pool import Pool
from tasks.requests import Outcome, Question, Terms
from tasks.store import home


class Asked(StageConfig):
    """Whom a filter asks. Answers come from the ledger where it has them."""

    backend: str = Field("vllm", description="a file of models/backends")
    model: str = Field("tiny_llava", description="a folder of models/checkpoints, any folder, or a Hugging Face id")
    retries: NonNegativeInt = Field(2, description="further attempts at an answer that cannot be used")
    sampling: Sampling = Sampling()
    engine: Engine = Engine()

    def answers(
        self, prompt: str, questions: Iterable[Question], world: World, choices: tuple[str, ...] = ()
    ) -> Iterator[Outcome]:
        """Answer questions about ingested images, in no particular order."""
        terms = Terms(
            locate_model(self.backend, self.model), self.sampling, self.engine, Pool(world.images, self.engine)
        )
        with Asker(
            terms,
            world.opener(self.backend),
            world.resources,
            ledger=home() / "ledger",
            retries=self.retries,
            images_per_prompt=2,
            record=world.record,
        ) as asker:
            yield from asker.ask(prompts.load(prompt), questions, choices)

    def identity(self, prompt: str) -> dict[str, Any]:
        """What the names of model and prompt stand for."""
        return {"revision": locate_model(self.backend, self.model).revision, "prompt": prompts.load(prompt).digest}

    def check(self, prompt: str, images: int, answer: str) -> None:
        """Refuse a backend or a prompt that this filter cannot use.

        Raises:
            ValueError: with all that is wrong.
        """
        faults = []
        checks: list[Callable[[], object]] = [
            lambda: load_backend(self.backend),
            lambda: _refuse(prompt, images, answer),
        ]
        for check in checks:
            try:
                check()
            except (LookupError, ValueError) as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))


def _refuse(name: str, images: int, answer: str) -> None:
    prompt = prompts.load(name)
    if prompt.images != images or prompt.answer != (answer,) or prompt.placeholders != {"modification"}:
        raise ValueError(
            f"prompt {name!r} shows {prompt.images} images, fills {sorted(prompt.placeholders)} and asks for "
            f"{list(prompt.answer)}; want {images} images, ['modification'] and {[answer]}"
        )
