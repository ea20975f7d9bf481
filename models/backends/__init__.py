"""Text generators: engines that answer prompts about images, behind one interface.

One file per engine: `models/backends/<name>.py` defines `open_generator` with the signature of `Opener`. The folder is
the registry: a new engine is a new file and no edit elsewhere. A file may also define `locate(model)`, where a model's
name is no checkpoint of this machine or the hub, and `check(resources)`, which raises a ValueError for resources that
it cannot work with.
"""

import importlib
import math
import pkgutil
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType
from typing import Annotated, Literal, Protocol, runtime_checkable

from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt

from data.config import Resources, StageConfig
from data.suggest import did_you_mean
from models.checkpoints import Located, resolve


class Sampling(StageConfig):
    """How answers are drawn."""

    temperature: Annotated[float, Field(ge=0, le=2, description="0: the most likely token every time")] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1, description="share of the probability that tokens are drawn from")] = 1.0
    max_tokens: PositiveInt = Field(160, description="an answer that is longer is cut off, and rejected")
    seed: NonNegativeInt = Field(0, description="another seed asks everything anew")
    # A most likely answer would be the same a second time, so a retry has to be drawn.
    retry_temperature: Annotated[float, Field(gt=0, le=2, description="least temperature of a retry")] = 0.7


class Engine(StageConfig):
    """What else decides an answer: how the model is run and how it sees an image."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="auto: as the model was saved")
    context: PositiveInt | None = Field(None, description="tokens of prompt and answer; none: all the model takes")
    image_side: PositiveInt = Field(512, description="larger images are shrunk to this longer side, in pixels")
    structured: bool = Field(False, description="let the engine admit nothing but the JSON object asked for")
    trust_remote_code: bool | None = Field(
        None, description="run code that comes with the model; none: only for the models that docs say need it"
    )


@dataclass(frozen=True)
class Request:
    """One prompt.

    Attributes:
        request_id: SHA-256 of all that decides the answer; see `tasks.asking`.
        prompt: the rendered text of the user's turn.
        images: RGB, in the order the prompt speaks of them, already at the size to be seen.
        image_digests: one per image, different whenever the pixels are.
        seed: of this request alone, 0 <= seed < 2**31.
        temperature: of this request alone; the rest of the sampling is the generator's.
        answer: names of the text fields of the JSON object asked for, for engines that can enforce them.
        choices: words that the answer decides between, where their probabilities are wanted too; lower case.
    """

    request_id: str
    prompt: str
    images: tuple[Image.Image, ...]
    image_digests: tuple[str, ...]
    seed: int
    temperature: float = 0.0
    answer: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Response:
    """What came back for one request.

    Attributes:
        request_id: of the request.
        text: the raw answer; empty for "too_long", the engine's message for "error".
        finish_reason: "stop", "length" (cut off at the largest number of tokens), "too_long" (the prompt does not fit
            the context that `Engine` says; it was not asked), "filtered" (by a service that screens answers) or "error"
            (the engine refused this one request, or failed at it again and again).
        tokens_in, tokens_out: of prompt (images included) and answer.
        probabilities: one for each of the request's choices, adding up to 1; None where none were asked for, the
            engine tells none, or the answer takes none of the choices.
    """

    request_id: str
    text: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    probabilities: tuple[float, ...] | None = None


class BrokenOff(RuntimeError):  # noqa: N818  (what happened, as in the message)
    """The engine is gone in the midst of a call; `responses` is what it had answered."""

    def __init__(self, message: str, responses: Sequence[Response]) -> None:
        super().__init__(message)
        self.responses = tuple(responses)


class TextGenerator(Protocol):
    """An engine with a model in it.

    Attributes:
        model, revision: what answers, as in the provenance of its texts.
    """

    model: str
    revision: str

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests: same length, same order. One request that fails never takes others with it."""
        ...

    def close(self) -> None:
        """Give back memory, devices and processes; a second call does nothing."""
        ...


@runtime_checkable
class Overlapping(TextGenerator, Protocol):
    """One that takes more requests while it is at work, so that its batch stays full from one call to the next."""

    def begin(self, requests: Sequence[Request]) -> None:
        """Take requests, whose images are not needed any more afterwards; `finish` gives what became of them."""
        ...

    def finish(self, least: int) -> list[Response]:
        """Work until so many requests are done, or all; returns every response that no call has returned."""
        ...


class Opener(Protocol):
    """Signature of a backend file's `open_generator`."""

    def __call__(
        self, located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
    ) -> TextGenerator: ...


def names() -> list[str]:
    """Names that `load_backend` knows: the files of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load_backend(name: str) -> Opener:
    """`open_generator` of `models/backends/<name>.py`; no engine is started yet.

    Raises:
        LookupError: if there is no such file; names the nearest.
    """
    opener: Opener = _module(name).open_generator
    return opener


def locate_model(backend: str, model: str) -> Located:
    """The model of this name as the backend knows it: `models.checkpoints.resolve`, unless its file has its own.

    Raises:
        LookupError: if there is no such backend or model.
    """
    located: Located = getattr(_module(backend), "locate", resolve)(model)
    return located


def check_resources(backend: str, resources: Resources) -> None:
    """Raise a ValueError if the backend cannot work with these resources, before anything is started."""
    check = getattr(_module(backend), "check", None)
    if check is not None:
        check(resources)


def _module(name: str) -> ModuleType:
    if name not in names():
        raise LookupError(f"no backend {name!r};{did_you_mean(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


LIKELIEST = 20
"""Likeliest tokens of each step that an engine is asked for where a request has choices: vLLM's and OpenAI's most."""


# Where a reasoning model's answer begins, as in `tasks.replies`.
_THOUGHT = re.compile(r"[<\[◁]/think(?:ing)?[>\]▷]", re.IGNORECASE)
_QUOTE = r"\\?[\"'“”‘’]"  # models do not only use JSON's


def choice_probabilities(
    steps: Iterable[tuple[str, Mapping[str, float]]], choices: Sequence[str]
) -> tuple[float, ...] | None:
    """How an answer's probability was shared out between choices, at the step that took one of them.

    That is the step within the first object behind all thoughts that has a choice for a value: what is said before and
    behind it ("I see no fault: ...") does not count. Without such an object it is the last step that took a choice.

    Args:
        steps: of each token of the answer its text, and the natural logarithms of the probabilities of the likeliest
            tokens by their text.
        choices: lower-case words; each has to be one token of the model, with or without quotation marks and blanks.

    Returns:
        One probability per choice, adding up to 1; None if no step took a choice.
    """
    told = list(steps)
    place = _deciding([text for text, _ in told], choices)
    if place is None:
        return None
    taken, likeliest = told[place]
    weights = dict.fromkeys(choices, 0.0)
    for text, logarithm in likeliest.items():
        if _word(text) in weights and not math.isnan(logarithm):
            weights[_word(text)] += math.exp(min(logarithm, 0.0))
    if (total := sum(weights.values())) == 0:  # the engine told of other tokens only
        return tuple(float(choice == _word(taken)) for choice in choices)
    return tuple(weights[choice] / total for choice in choices)


def _deciding(tokens: Sequence[str], choices: Sequence[str]) -> int | None:
    """The place of the token that is the answer's choice."""
    answer = "".join(tokens)
    start = max((found.end() for found in _THOUGHT.finditer(answer)), default=0)
    words = "|".join(map(re.escape, choices))
    value = rf"\{{[^{{}}]*{_QUOTE}\s*:\s*{_QUOTE}\s*({words})[\s.]*{_QUOTE}"
    found = re.compile(value, re.IGNORECASE).search(answer, start)
    if found is None:
        return next((place for place in reversed(range(len(tokens))) if _word(tokens[place]) in choices), None)
    place = bisect_right(list(accumulate(map(len, tokens))), found.start(1))
    return place if _word(tokens[place]) in choices else None


def _word(token: str) -> str:
    """A token's letters: '"Yes' and ' yes' are both a yes."""
    return "".join(letter for letter in token if letter.isalpha()).lower()
