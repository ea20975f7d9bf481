"""Words of English texts, and which of them say something."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, in order."""
    return _WORD.findall(text.lower())


FUNCTION = frozenset(
    words(
        """a an the this that these those it its he she they them his her their there here i you we my your our who
        whose
        which what and or but nor so yet if than then as of in on at by to from with without for into onto over under
        above below near beside between behind before after along across around through against about up down off out is
        are was were be been being am has have had do does did will would can could should may might must not no only
        just too also very more most less least much many some any each every both all one ones such same own while
        where when now still instead rather anymore longer"""
    )
)
"""Words that carry no content of their own."""

VAGUE = frozenset(
    words(
        """image images picture pictures photo photos photograph photographs scene scenes thing things something
        anything
        object objects item items subject subjects element elements one part parts version look looks looking appearance
        way kind sort type style different differently difference differences other another similar similarly like alike
        change changes changed changing modify modified modification alter altered make makes made making turn turns
        turned become becomes show shows shown showing add adds added remove removes removed replace replaced take put
        give get keep move go goes edit edited adjust adjusted update updated new better nicer good nice bit slightly
        somewhat completely"""
    )
)
"""Words that say that something changes, or that there is something, and not what."""


def content(text: str) -> list[str]:
    """The words of a text without function words, in order."""
    return [word for word in words(text) if word not in FUNCTION]


def telling(text: str) -> list[str]:
    """The words of a text that say what it speaks of: neither function words nor vague ones."""
    return [word for word in content(text) if word not in VAGUE]


def covered(wanted: Iterable[str], given: Iterable[str]) -> float | None:
    """Share of the distinct words of `wanted` that are in `given`, in [0, 1]; None where none is wanted."""
    distinct, there = set(wanted), set(given)
    return len(distinct & there) / len(distinct) if distinct else None


def in_common(text: str, other: str) -> float:
    """Dice coefficient of two texts' content words and their neighbouring pairs, in [0, 1]."""
    mine, theirs = _parts(text), _parts(other)
    total = mine.total() + theirs.total()
    return 2 * (mine & theirs).total() / total if total else 1.0


def _parts(text: str) -> Counter[tuple[str, ...]]:
    said = content(text)
    return Counter([*((word,) for word in said), *pairwise(said)])
