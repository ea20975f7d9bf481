"""From what a language model wrote to the fields of the JSON object it was asked for, or to the reason why not."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Rejected:
    """An answer that cannot be used.

    Attributes:
        reason: "empty", "refusal", "cut_off", "unparsable", "missing_field", "repeated", "echo", "too_long",
            "engine_error", or "image_..." where an image could not be read.
        retry: whether another seed may do better.
    """

    reason: str
    retry: bool = True


_REFUSAL = re.compile(
    r"^\W*(i['’]?m (very )?sorry|sorry[,.! ]|i apologi[sz]e|unfortunately,? (i|the image)"
    r"|i (can(no|['’])?t|am (not able|unable)|do(n['’]t| not) have|won['’]t|will not) "
    r"|i['’]m (not able|unable)|as an ai\b|as a (large )?language model)",
    re.IGNORECASE,
)
_FENCED = re.compile(r"```(?:\w+)?\s*(\{.*?\})\s*```", re.DOTALL)
_LOOPS = (
    re.compile(r"(?<!\S)(\S+(?:\s+\S+){0,4}?)(?:\s+\1){4,}(?!\S)", re.IGNORECASE),  # up to 5 words, five times in a row
    re.compile(r"(?<!\S)(\S+(?:\s+\S+){5,29}?)(?:\s+\1){2,}(?!\S)", re.IGNORECASE),  # up to 30 words, three times
    re.compile(r"(\S.{0,11}?)\1{9,}", re.DOTALL),  # up to a dozen characters, ten times: rows of dots, no spaces
)
_LOOK_AT = 4000  # characters searched for loops; the expressions take quadratic time
_DECODER = json.JSONDecoder(strict=False)  # models put raw line breaks into texts


def read_reply(
    raw: str, finish_reason: str, fields: Sequence[str], example: Mapping[str, str] | None = None
) -> dict[str, str] | Rejected:
    """Read the texts of `fields` out of an answer.

    The object may stand alone, in a code fence, or anywhere in other text: the first that has all fields counts.
    Fields beyond those asked for are ignored. Runs of white space become one blank.

    Args:
        raw: what the model wrote.
        finish_reason: as in `models.backends.Response`.
        fields: at least one.
        example: the object that the prompt shows, where repeating it cannot be an answer.
    """
    if finish_reason == "too_long":
        return Rejected("too_long", retry=False)
    if finish_reason == "error":
        return Rejected("engine_error", retry=False)
    if finish_reason == "filtered":
        return Rejected("refusal")
    if not raw.strip():
        return Rejected("empty")
    if finish_reason == "length":
        return Rejected("repeated" if _loops(raw) else "cut_off")
    objects = list(_objects(raw))
    found = next((candidate for candidate in objects if candidate.keys() >= set(fields)), None)
    if found is None:
        if _REFUSAL.search(raw):
            return Rejected("refusal")
        if _loops(raw):
            return Rejected("repeated")
        return Rejected("missing_field" if objects else "unparsable")
    texts: dict[str, str] = {}
    for field in fields:
        text = _text(found[field])
        if isinstance(text, Rejected):
            return text
        texts[field] = text
    return Rejected("echo") if example is not None and texts == dict(example) else texts


def shown_example(prompt: str, fields: Sequence[str]) -> dict[str, str] | None:
    """The object with `fields` that a prompt shows, if it shows exactly one: two are a choice to answer with."""
    shown = [found for found in _objects(prompt) if found.keys() == set(fields)]
    texts = [{field: str(found[field]) for field in fields} for found in shown]
    return texts[0] if len(texts) == 1 else None


def _text(value: object) -> str | Rejected:
    if not isinstance(value, str):
        return Rejected("unparsable")
    text = " ".join(value.split())
    if not text:
        return Rejected("empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: "\ud83d"
        return Rejected("unparsable")
    if _REFUSAL.search(text):
        return Rejected("refusal")
    return Rejected("repeated") if _loops(text) else text


def _loops(text: str) -> bool:
    looked = text[:_LOOK_AT]
    # The expressions take most of the time that reading takes. What they look for has a word five times, six words
    # three times each, or two letters side by side nine times.
    words = Counter(looked.casefold().split()).values()
    letters = Counter(pairwise(looked)).values()
    possible = (
        max(words, default=0) >= 5,
        sum(count for count in words if count >= 3) >= 18,
        max(letters, default=0) >= 9,
    )
    return any(loop.search(looked) for loop, wanted in zip(_LOOPS, possible, strict=True) if wanted)


def _objects(raw: str) -> Iterator[dict[str, object]]:
    """All JSON objects in a text: of code fences first, then outermost ones from left to right."""
    for block in _FENCED.findall(raw):
        found = _decoded(block, 0)
        if found is not None:
            yield found[0]
    place = raw.find("{")
    while place >= 0:
        found = _decoded(raw, place)
        if found is not None:
            yield found[0]
        place = raw.find("{", place + 1 if found is None else found[1])


def _decoded(text: str, place: int) -> tuple[dict[str, object], int] | None:
    try:
        value, end = _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None
    return (value, end) if isinstance(value, dict) else None
