"""The tiny world's language: captions and modifications in several phrasings, and a parser that reads them back
exactly.

Each kind of edit has phrasings to train on and phrasings (`held_out=True`) that only benchmarks use. The parser reads
both, and nothing else: a text outside the grammar is not understood, which is how what a model writes is judged.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache

from data.tiny_edits import Edit, Look, Pattern, exactly, fits, look, look_of, paired
from data.tiny_world import BACKGROUNDS, COLOURS, DOMAIN, MAX_THINGS, POSITIONS, SHAPES, Scene, Thing

NUMBERS = {1: "one", 2: "two", 3: "three"}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}

CAPTIONS = (
    "{things} on a {background} background",
    "a {background} background with {things}",
    "there is {things} on a {background} background",
    "{things}, on a {background} background",
    "a {background} picture with {things}",
)
# (kind, named part): {x} is a thing of the reference, {xs} several of it, {new} a new thing, {v} the new value.
TRAINED: dict[str, tuple[str, ...]] = {
    "colour": (
        "make {x} {v}", "change {x} to {v}", "paint {x} {v}", "{x} is {v} now", "{x} becomes {v}",
    ),
    "shape": (
        "turn {x} into a {v}", "replace {x} with a {v}", "change {x} into a {v}", "a {v} instead of {x}",
        "{x} becomes a {v}",
    ),
    "size": ("make {x} {v}", "change {x} to a {v} one", "{x} is {v} now", "{x} becomes {v}"),
    "texture": ("make {x} {v}", "change {x} to a {v} one", "{x} is {v} now", "give {x} a {v} texture"),
    "position": ("move {x} to the {v}", "put {x} in the {v}", "{x} is in the {v} now", "{x} goes to the {v}"),
    "background": (
        "change the background to {v}", "make the background {v}", "the background is {v} now",
        "put it on a {v} background",
    ),
    "addition": ("add {new}", "put {new} there", "there is also {new}", "it has {new} too"),
    "removal": ("remove {x}", "take away {x}", "there is no {x0} any more", "it goes without {x}"),
    "count": ("show {v} {xs}", "make it {v} {xs}", "there are {v} {xs} now", "change it to {v} {xs}"),
    "negation": (
        "{x} is not {v} any more", "make {x} anything but {v}", "{x} is no longer {v}", "change {x}, not {v}",
    ),
}  # fmt: skip
HELD_OUT_PHRASES: dict[str, tuple[str, ...]] = {
    "colour": ("now {x} is {v}", "give {x} a {v} paint", "{x} goes {v}"),
    "shape": ("now {x} is a {v}", "take a {v} instead of {x}", "make {x} a {v}"),
    "size": ("now {x} is {v}", "turn {x} into a {v} one", "{x} goes {v}"),
    "texture": ("now {x} is {v}", "turn {x} into a {v} one", "{x} becomes {v}"),
    "position": ("now {x} is in the {v}", "take {x} to the {v}", "change {x} to be in the {v}"),
    "background": ("now the background is {v}", "paint the background {v}", "it has a {v} background now"),
    "addition": ("now there is also {new}", "give it {new} too", "show also {new}"),
    "removal": ("now without {x}", "make {x} go away", "it has no {x0} any more"),
    "count": ("now there are {v} {xs}", "it has {v} {xs} now", "put {v} {xs} there"),
    "negation": ("now {x} is not {v}", "make {x} no longer {v}", "{x} becomes anything but {v}"),
}
TYPED = ("short", "sentence")  # as people type into a search box, and as they write
STYLES = (*TYPED, "concept")  # what stays, a colon, the change


# --- Writing ---


def _noun(thing: Thing, attributes: Sequence[str], rng: random.Random, plural: bool = False) -> str:
    words = []
    if "size" in attributes:
        words.append(rng.choice(SIZE_WORDS[thing.size]))
    if "colour" in attributes:
        words.append(thing.colour)
    if "texture" in attributes and (thing.texture != "plain" or rng.random() < 0.3):
        words.append(thing.texture)
    words.append(PLURALS[thing.shape] if plural else thing.shape)
    where = f" {rng.choice(('in', 'at'))} the {thing.position}" if "position" in attributes else ""
    return " ".join(words) + where


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(scene: Scene, rng: random.Random) -> str:
    """Describe everything in `scene`, things in reading order."""
    return _described([_noun(thing, tuple(DOMAIN), rng) for thing in scene.things], scene.background, rng)


def captions_alike(reference: Scene, target: Scene, rng: random.Random) -> tuple[str, str]:
    """Describe two scenes in the same words, but for what changed.

    The second lists its things in the order in which those of the first became them, new ones last.
    """
    seed = rng.getrandbits(32)
    pairs = paired(reference, target)
    captions = []
    for scene, things in ((reference, [old for old, _ in pairs]), (target, [new for _, new in pairs])):
        nouns = [
            _noun(thing, tuple(DOMAIN), random.Random(f"{seed}/{place}"))
            for place, thing in enumerate(things)
            if thing is not None
        ]
        captions.append(_described(nouns, scene.background, random.Random(seed)))
    return captions[0], captions[1]


def _described(nouns: Sequence[str], background: str, rng: random.Random) -> str:
    return rng.choice(CAPTIONS).format(things=_listed([_a(noun) for noun in nouns]), background=background)


def _naming(scene: Scene, source: Look, rng: random.Random) -> tuple[str, ...]:
    """Choose attributes that tell the source from the other things: the fewest that do, sometimes one more."""
    thing = next(t for t in scene.things if fits(source, t))
    choices: list[tuple[str, ...]] = [
        ("shape",),
        ("colour", "shape"),
        ("size", "colour", "shape"),
        ("colour", "shape", "position"),
    ]
    alone = [names for names in choices if sum(fits(look_of(thing, *names), t) for t in scene.things) == 1]
    if not alone:
        return ("size", "colour", "texture", "shape", "position")
    return rng.choices(alone[:2], (2, 3)[: len(alone[:2])])[0]


def phrase(edit: Edit, scene: Scene, rng: random.Random, held_out: bool = False) -> str:
    """Say one edit of `scene` in one of its phrasings."""
    template = rng.choice((HELD_OUT_PHRASES if held_out else TRAINED)[edit.kind])
    if edit.kind == "addition":
        assert edit.added is not None
        named = dict(edit.added)
        thing = Thing(*(min(named.get(n, DOMAIN[n])) for n in ("position", "shape", "colour", "size", "texture")))
        return template.format(new=_a(_noun(thing, tuple(named), rng)))
    if edit.background is not None:
        before = scene.background if edit.kind == "negation" else min(edit.background)
        return template.format(x="the background", v=before)
    assert edit.source is not None
    thing = next(t for t in scene.things if fits(edit.source, t))
    names = _naming(scene, edit.source, rng)
    noun = _noun(thing, names, rng)
    if edit.kind == "count":
        assert edit.count is not None
        plural = _noun(thing, [n for n in names if n != "position"], rng, plural=True)
        return template.format(v=NUMBERS[edit.count], xs=plural)
    if edit.kind == "removal":
        return template.format(x=f"the {noun}", x0=noun)
    ((name, allowed),) = edit.change
    value = getattr(thing, name) if edit.kind == "negation" else min(allowed)
    if edit.kind == "negation" and name == "shape":
        value = _a(value)
    if edit.kind == "size":
        value = rng.choice(SIZE_WORDS[value])
    text = template.format(x=f"the {noun}", v=value)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _shared(edits: Sequence[Edit], scene: Scene, rng: random.Random) -> str:
    """Name one thing that no edit touches, else the background, else only the picture."""
    left = [t for t in scene.things if not any(edit.source is not None and fits(edit.source, t) for edit in edits)]
    if left:
        thing = rng.choice(left)
        return "the same " + _noun(thing, _naming(scene, look_of(thing), rng), rng)
    if any(edit.background is not None for edit in edits):
        return "the same picture"
    return f"the same {scene.background} background"


def modification(
    edits: Sequence[Edit], scene: Scene, rng: random.Random, style: str = "short", held_out: bool = False
) -> str:
    """Say several edits as one text.

    `style` "sentence" begins with a capital and ends with a full stop; "concept" first says what stays, and a colon.
    """
    text = _listed([phrase(edit, scene, rng, held_out) for edit in edits])
    if style == "concept":
        return f"{_shared(edits, scene, rng)}: {text}"
    return text[0].upper() + text[1:] + "." if style == "sentence" else text


# --- Reading ---


def _alternatives(words: Sequence[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_SIZES = _alternatives([word for words in SIZE_WORDS.values() for word in words])
_NOUN = (
    rf"(?:(?P<size{{0}}>{_SIZES}) )?(?:(?P<colour{{0}}>{_alternatives(tuple(COLOURS))}) )?"
    rf"(?:(?P<texture{{0}}>{_alternatives(DOMAIN['texture'])}) )?"
    rf"(?P<shape{{0}}>{_alternatives([*SHAPES, *PLURALS.values()])})"
    rf"(?: (?:in|at) the (?P<position{{0}}>{_alternatives(POSITIONS)}))?"
)
_VALUES = {
    "colour": _alternatives(tuple(COLOURS)),
    "shape": _alternatives(SHAPES),
    "size": _SIZES,
    "texture": _alternatives(DOMAIN["texture"]),
    "position": _alternatives(POSITIONS),
    "background": _alternatives(tuple(BACKGROUNDS)),
    "count": _alternatives(tuple(NUMBERS.values())),
}
_CANONICAL_SIZE = {word: size for size, words in SIZE_WORDS.items() for word in words}
_SINGULAR = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}


def _read_noun(match: re.Match[str], suffix: str = "") -> Look:
    parts = {name: value for name in DOMAIN if (value := match.group(name + suffix)) is not None}
    parts["shape"] = _SINGULAR[parts["shape"]]
    if "size" in parts:
        parts["size"] = _CANONICAL_SIZE[parts["size"]]
    return look(**parts)


def _whole(described: Look) -> Look:
    """Take a thing whose size and place are told, but no pattern, for a plain one, as in a caption."""
    named = dict(described)
    return look(**({"texture": "plain"} | named)) if {"size", "position"} <= named.keys() else described


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    """Every phrasing as (kind, attribute of the value, expression), those about a background or a value first."""
    found = []
    for phrases in (TRAINED, HELD_OUT_PHRASES):
        for kind, templates in phrases.items():
            attributes = ("background", "colour", "shape") if kind == "negation" else (kind,)
            for template in templates:
                for attribute in attributes:
                    noun = (
                        "the background"
                        if (kind, attribute) == ("negation", "background")
                        else f"the {_NOUN.format('')}"
                    )
                    value = (
                        "an? " if (kind, attribute) == ("negation", "shape") else ""
                    ) + rf"(?P<v>{_VALUES.get(attribute, '')})"
                    slots = {
                        "x": noun,
                        "x0": _NOUN.format(""),
                        "xs": _NOUN.format(""),
                        "new": f"an? {_NOUN.format('')}",
                        "v": value,
                    }
                    expression = re.escape(template).replace(r"\ ", " ").replace(r"\{", "{").replace(r"\}", "}")
                    expression = re.sub(r"\ba \{v\}", "an? {v}", expression)
                    for slot, meaning in slots.items():
                        expression = expression.replace("{" + slot + "}", meaning)
                    found.append((kind, attribute, re.compile(expression)))
    return found


def read_clause(text: str) -> Edit | None:
    """Read one phrase as an edit, or None where it is not of this language."""
    for kind, attribute, expression in _patterns():
        match = expression.fullmatch(text)
        if match is None:
            continue
        if kind == "addition":
            return Edit(kind, added=_whole(_read_noun(match)))
        value = match.groupdict().get("v") or ""
        if attribute == "background":
            others = frozenset(BACKGROUNDS) - {value}
            return Edit(kind, background=others if kind == "negation" else frozenset({value}))
        source = _read_noun(match)
        if kind == "removal":
            return Edit(kind, source)
        if kind == "count":
            return Edit(kind, source, count=next(n for n, word in NUMBERS.items() if word == value))
        value = _CANONICAL_SIZE.get(value, value)
        allowed = frozenset(DOMAIN[attribute]) - {value} if kind == "negation" else frozenset({value})
        return Edit(kind, source, look(**{attribute: allowed}))
    return None


_SHARED = re.compile(rf"the same (?:{_NOUN.format('')}|(?:{_VALUES['background']}) background|picture): ")


def read_modification(text: str) -> list[Edit] | None:
    """Read a modification of any style as its edits, or None where any part of it is not of this language.

    What it says stays is understood and left out.
    """
    clean = text.strip().removesuffix(".").strip()
    if shared := _SHARED.match(clean):
        clean = clean[shared.end() :]
    clean = clean[:1].lower() + clean[1:]
    clauses = re.split(r", (?!not )| and ", clean)
    edits = [read_clause(clause) for clause in clauses]
    return [edit for edit in edits if edit is not None] if all(edits) else None


_CAPTION_THING = re.compile(rf"\ban? {_NOUN.format('')}")
_CAPTION_BACKGROUND = re.compile(rf"\b(?P<background>{_VALUES['background']}) (?:background|picture)\b")
_FILLER = frozenset({"a", "an", "on", "with", "there", "is", "and"})


def read_caption(text: str) -> Pattern | None:
    """Read a caption as the scenes that it describes, or None where any word is left over or the background is
    missing."""
    clean = text.strip().lower().removesuffix(".")
    looks = [_read_noun(match) for match in _CAPTION_THING.finditer(clean)]
    backgrounds = _CAPTION_BACKGROUND.findall(clean)
    rest = _CAPTION_BACKGROUND.sub(" ", _CAPTION_THING.sub(" ", clean)).replace(",", " ").split()
    # More things than any scene has would make comparing slow, and cannot be right.
    if not looks or len(looks) > MAX_THINGS + 1 or len(backgrounds) != 1 or not set(rest) <= _FILLER:
        return None
    # Only what is not plain needs saying.
    described = tuple(look(**({"texture": "plain"} | dict(one))) for one in looks)
    return Pattern(frozenset(backgrounds), described)


def describes(text: str, scene: Scene) -> bool:
    """Say whether a caption is fully right: every thing with every attribute, the background, and nothing else."""
    pattern = read_caption(text)
    if pattern is None:
        return False
    complete = all(set(dict(one)) == set(DOMAIN) for one in pattern.looks)
    return (
        complete
        and sorted(map(repr, pattern.looks)) == sorted(map(repr, exactly(scene).looks))
        and pattern.matches(scene)
    )
