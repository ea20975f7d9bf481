"""What is asked of a model, and the identity of a request: the digest of all that decides its answer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from data.keys import canonical, digest
from models.backends import Engine, Request, Response, Sampling
from models.checkpoints import Located
from prompts import Prompt
from tasks.ledger import Entry
from tasks.replies import Rejected


@dataclass(frozen=True)
class Picture:
    """An image that may be asked about: its digest tells what the model sees, `load` gives it or raises BadImage."""

    digest: str
    load: Callable[[], Image.Image]


@dataclass(frozen=True)
class Question:
    """One rendered prompt to be answered, as often as it takes, for a row of the caller's.

    Attributes:
        row_id: the caller's name for it.
        rendered: the prompt.
        image_ids: what it shows, in order.
        draw: 0, or a number that asks for yet another answer to the same words; it is drawn as a retry is, because a
            most likely answer would be the same again.
        temperature: the least that its answers are drawn with.
    """

    row_id: str
    rendered: str
    image_ids: tuple[str, ...]
    draw: int = 0
    temperature: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a question.

    Attributes:
        row_id: of the question.
        texts: the answer's fields, or why there is none after the last attempt.
        request_id: of the last attempt; None if nothing was asked because an image could not be read.
        raw: of a rejected one the last raw answer, or what is wrong with the image; else empty.
        probabilities: of the choices that were asked about, adding up to 1; None where none were, or none are known.
    """

    row_id: str
    texts: Mapping[str, str] | Rejected
    request_id: str | None
    raw: str
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Terms:
    """Whom to ask, and how its answers are drawn."""

    located: Located
    sampling: Sampling
    engine: Engine
    pictures: Mapping[str, Picture]

    @cached_property
    def model(self) -> str:
        """The name in the provenance: a checkpoint's folder or its Hugging Face id."""
        return Path(self.located.path_or_id).name if self.located.local else self.located.path_or_id

    def about(self, questions: Iterable[Question]) -> "Terms":
        """The same with the pictures of some questions only, small enough to be sent to a worker."""
        shown = {image_id for question in questions for image_id in question.image_ids}
        return replace(self, pictures={image_id: self.pictures[image_id] for image_id in shown})

    def drawn(self, attempt: int, least: float = 0.0) -> dict[str, Any]:
        """How the answer of this attempt is drawn: at `least` at this temperature."""
        sampling, engine = self.sampling, self.engine
        first = max(sampling.temperature, least)
        return {
            "temperature": max(first, sampling.retry_temperature) if attempt else first,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "dtype": engine.dtype,
            "context": engine.context,
            "structured": engine.structured,
        }

    def digests(self, question: Question) -> tuple[str, ...]:
        """Of the question's images, as they are seen."""
        return tuple(self.pictures[image_id].digest for image_id in question.image_ids)


@dataclass(frozen=True)
class Attempt:
    """One request to be made for a question.

    Attributes:
        number: counts from 0.
        request_id: SHA-256 of all that decides the answer.
        image_digests: of the question's images, as they are seen.
        sampling: how the answer is drawn.
    """

    terms: Terms
    prompt: Prompt
    question: Question
    number: int
    request_id: str
    image_digests: tuple[str, ...]
    sampling: Mapping[str, Any]
    choices: tuple[str, ...] = ()

    @staticmethod
    def of(terms: Terms, prompt: Prompt, question: Question, number: int, choices: tuple[str, ...] = ()) -> "Attempt":
        """The attempt with its id."""
        image_digests = terms.digests(question)
        sampling = terms.drawn(number + question.draw, question.temperature)
        deciding = {
            "prompt_digest": prompt.digest,
            "rendered": question.rendered,
            "images": image_digests,
            "model": terms.model,
            "revision": terms.located.revision,
            "sampling": sampling,
            "attempt": number,
            **({"draw": question.draw} if question.draw else {}),
            **({"choices": choices} if choices else {}),
        }
        return Attempt(terms, prompt, question, number, digest(deciding), image_digests, sampling, choices)

    def request(self, images: Mapping[str, Image.Image]) -> Request:
        """What the engine gets. The seed comes from the id, so every row and attempt has its own."""
        return Request(
            request_id=self.request_id,
            prompt=self.question.rendered,
            images=tuple(images[image_id] for image_id in self.question.image_ids),
            image_digests=self.image_digests,
            seed=int(self.request_id[:8], 16) >> 1,
            temperature=float(self.sampling["temperature"]),
            answer=self.prompt.answer,
            choices=self.choices,
        )

    def entry(self, response: Response) -> Entry:
        """What the ledger gets."""
        return Entry(
            request_id=self.request_id,
            prompt=self.prompt.name,
            prompt_digest=self.prompt.digest,
            model=self.terms.model,
            revision=self.terms.located.revision,
            rendered=self.question.rendered,
            image_digests=self.image_digests,
            sampling=canonical(self.sampling),
            attempt=self.number,
            raw_response=response.text,
            finish_reason=response.finish_reason,
            tokens_in=response.tokens_in,
            tokens_out=response.tokens_out,
            probabilities=response.probabilities,
        )

    def row(self, entry: Entry, rejected: str | None) -> dict[str, Any]:
        """What the table of generations gets; `rejected` is the reason, None for an answer that is used."""
        return {
            "request_id": entry.request_id,
            "prompt": entry.prompt,
            "prompt_digest": entry.prompt_digest,
            "model": entry.model,
            "revision": entry.revision,
            "rendered": entry.rendered,
            "image_ids": list(self.question.image_ids),
            "raw_response": entry.raw_response,
            "finish_reason": entry.finish_reason,
            "tokens_in": entry.tokens_in,
            "tokens_out": entry.tokens_out,
            "attempt": entry.attempt,
            "rejected": rejected,
        }
