"""Which split a file is of, as its name tells: `cc3m-train-0000.tar`, `data/validation-00000-of-00014.parquet`."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from data.suggest import did_you_mean

T = TypeVar("T")

_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")


def of_split(found: Sequence[T], name: Callable[[T], str], wanted: str | None, what: str) -> list[T]:
    """Those of the wanted split; all of them if there is only one and none is wanted.

    Args:
        found: files, shards.
        name: of one of them, below the root.
        wanted: a split, `val` for `validation` and the like included.
        what: plural noun for the message.

    Raises:
        ValueError: if there are several and none is wanted, or the wanted one is not there.
    """
    splits: dict[str | None, list[T]] = {}
    for one in found:
        words = re.split(r"[^a-z]+", name(one).lower())
        splits.setdefault(next((_WORDS[word] for word in words if word in _WORDS), None), []).append(one)
    named = sorted(split for split in splits if split is not None)
    if wanted is None:
        if len(splits) > 1:
            raise ValueError(f"the {what} are of several splits: {', '.join(named)}; choose one by split=...")
        return list(found)
    chosen = splits.get(_WORDS.get(wanted.lower(), wanted))
    if chosen is None:
        hint = did_you_mean(wanted, named) if named else " their names tell of none, so leave split out"
        raise ValueError(f"none of the {what} is of the split {wanted!r};{hint}")
    return chosen
