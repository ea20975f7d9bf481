"""From what a language model wrote to the fields of the JSON object it was asked for, or to the reason why not."""

import json
import re
import string
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


# What reasoning models write before the answer: <think>...</think>, <thinking>, [THINK], and Kimi-VL's ◁think▷. Chat
# templates often write the opening tag themselves.
_THOUGHTS = re.compile(r"\A.*[<\[◁]/think(ing)?[>\]▷]", re.DOTALL | re.IGNORECASE)
_THINKING = re.compile(r"\s*[<\[◁]think(ing)?[>\]▷]", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^(?![\"“][^\"”]*[\"”]\W*\w)\W*"  # what stands in quotation marks somebody else says, a sign for example
    r"(i(['’]| a)?m (very |so |really )?sorry|sorry([,.!;:]|\W*$| (but|i|we|for|this|there|the image)\b)|i apologi[sz]e"
    r"|unfortunately,? (i|the image)|i (can(no|['’])?t|won['’]t|will not) |i(['’]| a)?m (not able|unable)"
    r"|i do(n['’]t| not) have (\w+ ){0,3}?(access|(cap)?abilit|enough|sufficient|information|(the|any) images?\W*$)"
    r"|i do(n['’]t| not) see (the|any|an) (image|picture|photo)|my apologies|i (must|have to) (decline|refuse)"
    r"|as an ai\b|as a (large )?language model)",
    re.IGNORECASE,
)
# Whole texts that say nothing: "none", but not "none of the dogs are brown".
_NOTHING = (
    r"(n/?a|none|null|nil|nothing|unknown|not applicable"
    r"|(there (is|are) )?no (visible |noticeable |apparent |significant )?(changes?|modifications?|differences?)"
    r"( (is |are )?(needed|required|necessary|visible|made|found)| to (make|describe)"
    r"| between the (two |first and (the )?second )?(images?|pictures?|photos?))?"
    r"|((the|both|these|two|first|second|and|images?|pictures?|photos?|they) )+"
    r"(is|are|looks?|seems?|appears?|remains?) (to be )?(\w+ly )?(identical|the same|unchanged)"
    r"( (to|as) (the |each )?(first|second|other|reference|target)( (one|image|picture|photo))?)?"
    r"|(same|identical)( images?)?"
    r"|(the )?(no )?images? (is |are |was |were )?(not )?(provided|available|given|attached))"
)
_NON_ANSWER = re.compile(
    rf"\W*({_NOTHING}(\W+((so|and|as|because|since) )?{_NOTHING})*\W*"
    r"|((it is )?(unable|impossible|not possible) to|cannot|could not) "
    r"(determine|tell|identify|describe|compare|provide|answer|process)\b.*"
    r"|(there is )?(not enough|insufficient) information\b.*"
    r"|[\[<](the |your |new )?(caption|text|modification|modified caption|instruction|answer)[\]>])",
    re.IGNORECASE,
)
_FENCED = re.compile(r"```\w*\s*(\{[^`]*\})\s*```")
# A string in any quotation marks, without its own inside: where 'the dog's tail' ends is a guess.
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[“”](?:[^"“”\\]|\\.)*[“”]|‘(?:[^‘’\\]|\\.)*’)"""
_PAIR = re.compile(rf"({_STRING})\s*:\s*({_STRING}|[\w.+-]+)\s*(?:,\s*|(?=\}}))")
_NEAR_OBJECT = re.compile(rf"\{{\s*(?:{_PAIR.pattern})+\}}")
_ESCAPES = {'"': '\\"', "\\'": "'", "\\_": "_"}  # to JSON's; models write the last from a habit of Markdown
_LOOPS = (
    re.compile(r"(?<!\S)(\S+(?:\s+\S+){0,4}?)(?:\s+\1){4,}(?!\S)", re.IGNORECASE),  # up to 5 words, five times in a row
    re.compile(r"(?<!\S)(\S+(?:\s+\S+){5,29}?)(?:\s+\1){2,}(?!\S)", re.IGNORECASE),  # up to 30 words, three times
    # Up to a dozen characters, ten times: rows of dots, no spaces. Not within a number of up to 30 digits.
    re.compile(r"(?!\d{10,30}(?!\d))(\S.{0,11}?)\1{9,}", re.DOTALL),
)
_READ = 20_000  # last characters of an answer; where nothing is an object, reading takes quadratic time
_LOOK_AT = 4000  # characters searched for loops; the expressions take quadratic time
_DECODER = json.JSONDecoder(strict=False)  # models put raw line breaks into texts
_FORMS = (Rejected("echo"), Rejected("empty"))  # what a model repeats of the prompt before it answers


def read_reply(
    raw: str, finish_reason: str, fields: Sequence[str], examples: Sequence[Mapping[str, str]] = ()
) -> dict[str, str] | Rejected:
    """Read the texts of `fields` out of an answer.

    What a model thinks before its answer is not looked at. The object may stand alone, in a code fence, or anywhere in
    other text: the first that has all fields counts, examples and empty forms only if nothing follows. If there is
    none, objects within objects and what is nearly JSON are read, and count where they all say the same. Fields beyond
    those asked for are ignored. Runs of white space become one blank.

    Args:
        raw: what the model wrote.
        finish_reason: as in `models.backends.Response`.
        fields: at least one.
        examples: objects that the prompt shows, where repeating one cannot be an answer.
    """
    if finish_reason == "too_long":
        return Rejected("too_long", retry=False)
    if finish_reason == "error":
        return Rejected("engine_error", retry=False)
    if finish_reason == "filtered":
        return Rejected("refusal")
    if not raw.strip():
        return Rejected("empty")
    answer = _THOUGHTS.sub("", raw)
    if finish_reason == "length" or _THINKING.match(answer):
        return Rejected("repeated" if _loops(answer) else "cut_off")
    if not answer.strip():
        return Rejected("empty")
    objects = list(_objects(answer[-_READ:]))
    exact = [found for found in objects if found.keys() >= set(fields)]
    if not exact:
        objects = list(_near_objects(answer[-_READ:]))
    complete = exact or [found for found in objects if found.keys() >= set(fields)]
    if not complete:
        without = "missing_field" if objects else "unparsable"
        return Rejected("refusal" if _REFUSAL.search(answer) else "repeated" if _loops(answer) else without)
    readings = [_texts(found, fields, examples) for found in complete]
    answers = [reading for reading in readings if reading not in _FORMS] or readings
    first, *others = answers
    if (not exact or _is_word(first)) and any(not _alike(first, other) for other in others):
        return Rejected("unparsable")
    return first


def shown_examples(prompt: str, fields: Sequence[str]) -> tuple[dict[str, str], ...]:
    """The objects with `fields` that a prompt shows as examples. Several of a single word each are words to choose."""
    shown = [found for found in _objects(prompt) if found.keys() == set(fields)]
    texts = tuple({field: str(found[field]) for field in fields} for found in shown)
    words = all(len(text.split()) == 1 for example in texts for text in example.values())
    return () if len(texts) > 1 and words else texts


def _texts(
    found: Mapping[str, object], fields: Sequence[str], examples: Sequence[Mapping[str, str]]
) -> dict[str, str] | Rejected:
    texts: dict[str, str] = {}
    for field in fields:
        text = _text(found[field])
        if isinstance(text, Rejected):
            return text
        texts[field] = text
    return Rejected("echo") if any(_alike(texts, example) for example in examples) else texts


def _is_word(reading: dict[str, str] | Rejected) -> bool:
    return isinstance(reading, dict) and all(len(text.split()) == 1 for text in reading.values())


def _alike(one: Mapping[str, str] | Rejected, other: Mapping[str, str] | Rejected) -> bool:
    if isinstance(one, Rejected) or isinstance(other, Rejected):
        return one == other
    return all(_bare(text) == _bare(other[field]) for field, text in one.items())


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).strip(string.punctuation)


def _text(value: object) -> str | Rejected:
    if not isinstance(value, str):
        return Rejected("unparsable")
    text = " ".join(value.split())
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: "\ud83d"
        return Rejected("unparsable")
    if not any(letter.isalnum() for letter in text):  # also "..." and "-"
        return Rejected("empty")
    if _REFUSAL.search(text) or _NON_ANSWER.fullmatch(text):
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


# --- What is nearly JSON ---


def _near_objects(text: str) -> Iterator[dict[str, object]]:
    """All objects in a text, those within others too, names of fields in lower case and with underscores.

    Objects of texts and bare words are also read in other quotation marks or in escaped ones, and with a comma at the
    end.
    """
    near = (
        {str(_unquoted(name)): _unquoted(value) for name, value in _PAIR.findall(found.group())}
        for found in _NEAR_OBJECT.finditer(text)
    )
    parts: list[object] = [*_objects(text), *_objects(_unescaped(text)), *near]
    for part in parts:  # and what is appended meanwhile
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            parts += part.values()
            named = {re.sub(r"\W+", "_", name.strip().casefold()): value for name, value in part.items()}
            if len(named) == len(part):
                yield named


def _unescaped(text: str) -> str:
    """The objects of a text in which every quotation mark is escaped, else nothing."""
    objects = text[text.find("{") : text.rfind("}") + 1]
    try:
        return str(_DECODER.decode(f'"{objects}"'))
    except ValueError:
        return ""


def _unquoted(written: str) -> str | None:
    """The text in quotation marks, whichever; None for a bare word and for escapes that JSON does not know."""
    if written[0] not in "\"'“”‘":
        return None
    inner = re.sub(r'\\.|"', lambda found: _ESCAPES.get(found[0], found[0]), written[1:-1])
    try:
        return str(_DECODER.decode(f'"{inner}"'))
    except ValueError:
        return None
