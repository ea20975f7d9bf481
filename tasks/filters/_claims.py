"""What a modification claims of two captions, phrase by phrase. Words alone: of English, and of no model."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tasks.filters._words import FUNCTION, VAGUE, words

Words = frozenset[str]


class Phrase(NamedTuple):
    """A part of a text that speaks of one thing.

    Attributes:
        told: its telling words.
        place: those of them that say where: after the last "in", "at" or the like.
    """

    told: Words
    place: Words


# What stands with or on something is another thing; what is on its left or right is where a thing is.
_PHRASES = re.compile(r"[,;:.!?]|\b(?:and|with)\b|\bon\b(?!\s+(?:(?:the|its|far)\s+)*(?:left|right|top|bottom)\b)")
_CLAIMS = re.compile(r"[,;:.!?]|\band\b|(?<!anything )\bbut\b")
_WHERE = re.compile(r".*\b(?:in|at|on|to|near|by|under|behind|above|below|beside)\b")
_INSTEAD = re.compile(r"\b(?:instead of|rather than)\b")
_GONE = re.compile(
    r"\b(?:remov(?:e|es|ed|ing)|delet(?:e|es|ed)|without|minus|loses?|lost|gone|disappear(?:s|ed)?|not|no|nothing|"
    r"never|anything but|(?:tak(?:e|es|en)|goes?|went)\b.*\baway)\b|n['’]t\b"
)
_GOING = frozenset(
    words("removing delete deletes deleted minus lose loses lost gone disappear disappears disappeared nothing never")
    + words("anything taken went away")
)
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_NUMBERS |= {str(number): number for number in _NUMBERS.values()}
_BARE = frozenset({"plain", "bare", "blank", "empty"})  # a caption does not say what a thing is without
_QUALITIES = frozenset(words("colour color texture pattern size shape paint painted painting set"))
_GROUND = frozenset(words("image picture photo photograph scene"))  # "a black picture" has a black background
_MEANING = {
    word: group[0]
    for group in (
        ("small", "little", "tiny", "smaller"),
        ("large", "big", "huge", "larger", "bigger"),
        ("gray", "grey"),
        ("background", "backdrop", *sorted(_GROUND)),
    )
    for word in group
}
_UNTOLD = (FUNCTION | VAGUE | _QUALITIES | _GOING) - _GROUND - {f"{word}s" for word in _GROUND}


PAIRED = 5
"""Phrases that a caption may have for all pairings to be tried: 209 of four things and a background."""
UNLIKE = 0.5
"""What a pairing costs for each pair as little alike as can be: a share of words in doubt."""


class Claim(NamedTuple):
    """One thing that a modification says of the target, and that is not so of the reference.

    Attributes:
        text: the claim's own words.
        told: its telling words, what it is about before what it says of that.
        place: those of them that say where.
        gone: whether something goes, or is no longer so.
    """

    text: str
    told: tuple[str, ...]
    place: Words
    gone: bool

    @property
    def words(self) -> Words:
        """The telling words, each once."""
        return frozenset(self.told)


def claims(modification: str) -> list[Claim]:
    """The claims of a modification, in order; parts that tell nothing are left out."""
    found = []
    for part in _CLAIMS.split(modification.lower()):
        told = [word for half in reversed(_INSTEAD.split(part)) for word in _told(half)]
        if told:
            found.append(Claim(part.strip(), tuple(told), _place(part), _GONE.search(part) is not None))
    return found


class Change:
    """From one caption to another: the phrases of both, and which of the second each of the first has become.

    Phrases are paired by the share of words in common, the likest first; those without a common word have no partner.

    Attributes:
        became: places of phrases of the target, by those of the reference.
    """

    def __init__(self, reference: str, target: str) -> None:
        self.before, self.after = _phrases(reference), _phrases(target)
        self._likeness = {
            (place, other): 2 * len(old.told & new.told) / (len(old.told) + len(new.told))
            for place, old in enumerate(self.before)
            for other, new in enumerate(self.after)
            if ("background" in old.told) == ("background" in new.told)
        }
        self.became: dict[int, int] = {}
        for place, other in sorted(self._likeness, key=lambda pair: (-self._likeness[pair], pair)):
            if self._likeness[place, other] and place not in self.became and other not in self.became.values():
                self.became[place] = other
        partners = set(self.became.values())
        self._new = [new.told for place, new in enumerate(self.after) if place not in partners]

    def doubts(self, claims: Sequence[Claim]) -> tuple[float, list[float]]:
        """How far the captions leave claims in doubt, all together and each, from 0 to 1.

        Where they are in doubt by the likest pairs, other pairs are tried: of two blue diamonds either may be the one
        that became a ring. Each costs by how much less alike it is. What goes is judged by the likest alone: a thing
        without a partner would always be gone.

        Returns:
            The least of the shares of telling words in doubt, with what the pairs cost; and the doubt of each claim by
            the likest pairs.
        """
        least, each = self._doubts(claims)
        if not least or max(len(self.before), len(self.after)) > PAIRED:
            return least, each
        likest, alike = dict(self.became), self._alike(self.became)
        try:
            for became in self._pairings(0, likest):
                self.became = became
                cost = UNLIKE * max(0.0, alike - self._alike(became))
                least = min(least, self._doubts(claims, each)[0] + cost)
        finally:
            self.became = likest
        return least, each

    def _doubts(self, claims: Sequence[Claim], likest: Sequence[float] | None = None) -> tuple[float, list[float]]:
        each = [
            likest[place] if likest is not None and claim.gone else 1 - self.support(claim)
            for place, claim in enumerate(claims)
        ]
        sizes = [len(claim.words) for claim in claims]
        return sum(size * doubt for size, doubt in zip(sizes, each, strict=True)) / max(1, sum(sizes)), each

    def _alike(self, became: Mapping[int, int]) -> float:
        return sum(self._likeness[pair] for pair in became.items())

    def _pairings(self, place: int, likest: Mapping[int, int]) -> Iterator[dict[int, int]]:
        """All ways to pair the phrases from a place on; what is said of the background has its partner."""
        if place == len(self.before):
            yield {}
            return
        fixed = "background" in self.before[place].told
        own = [likest[place]] if fixed and place in likest else []
        others = own if fixed else [other for one, other in self._likeness if one == place]
        for rest in self._pairings(place + 1, likest):
            if not own:
                yield rest
            for other in others:
                if other not in rest.values():
                    yield {place: other, **rest}

    def support(self, claim: Claim) -> float:
        """How far the captions bear a claim out, from 0 to 1: it holds of the target and not of the reference."""
        said = claim.words
        had, has = _covering(self.before, said), _covering(self.after, said)
        if claim.gone:
            return float(any(place not in self.became or self.became[place] not in has for place in had))
        if len(has) > len(had):
            return 1.0
        count = next((_NUMBERS[word] for word in claim.told if word in _NUMBERS), None)
        if count is not None:
            counted = said - set(_NUMBERS)
            return float(len(_covering(self.after, counted)) == count != len(_covering(self.before, counted)))
        about = [_about(claim.told, old.told) for old in self.before]
        most = max(about, default=0)
        subjects = [place for place, number in enumerate(about) if most and number == most and place in self.became]
        changed = max((self._changed(place, claim) for place in subjects), default=0.0)
        return changed or (0.0 if had else self._come(claim))

    def _come(self, claim: Claim) -> float:
        """How far a thing without a partner, by the likest pairs, has what is said: a detail of it may be wrong."""
        most = max((len(claim.words & told) / len(claim.words) for told in self._new), default=0)
        return most if most > 0.5 else 0.0

    def _changed(self, place: int, claim: Claim) -> float:
        """How far what became of a phrase has what is said and was not so; half at most where that is not told."""
        old, new, said = self.before[place], self.after[self.became[place]], claim.words
        if said & _BARE and said - _BARE <= old.told:
            return float(len(old.told - old.place) > len(new.told - new.place))
        told = said - old.told - _BARE
        if told:
            return 1.0 if told <= new.told else 0.5 * len(told & new.told) / len(told)
        if claim.place:  # the centre, of what was in the top centre
            return float(old.place != claim.place == new.place)
        return 0.0 if old == new or said <= new.told else 0.5


def _phrases(caption: str) -> list[Phrase]:
    parts = ((frozenset(_told(part)), _place(part)) for part in _PHRASES.split(caption.lower()))
    return [Phrase(told, place) for told, place in parts if told]


def _place(text: str) -> Words:
    return frozenset(_told(text[found.end() :])) if (found := _WHERE.match(text)) else frozenset()


def _covering(phrases: Sequence[Phrase], said: Words) -> list[int]:
    return [place for place, phrase in enumerate(phrases) if said <= phrase.told]


def _about(told: Sequence[str], words: Words) -> int:
    """How many of a claim's first words are of a phrase: what it is about."""
    return next((number for number, word in enumerate(told) if word not in words), len(told))


def _told(text: str) -> list[str]:
    return [_plain(word) for word in words(text) if word not in _UNTOLD and not word.endswith(("n't", "n’t"))]


def _plain(word: str) -> str:
    """A word without the ending of a plural, and one word for those that mean the same."""
    for ending, length in (("sses", 2), ("shes", 2), ("ches", 2), ("xes", 2), ("s", 1)):
        if word.endswith(ending) and len(word) > 3 and not word.endswith(("ss", "us", "is")):
            word = word[:-length]
            break
    return _MEANING.get(word, word)
