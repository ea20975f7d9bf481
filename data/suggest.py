"""What to say after a mistyped name."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of an error message, with a leading space: the nearest choice, or all of them.

    Use it as ``raise LookupError(f"no benchmark {name!r};{did_you_mean(name, names)}")``.
    """
    names = sorted(choices)
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f" did you mean {by_lower[close[0]]!r}?"
    return f" choose from: {', '.join(names)}" if names else " there is none to choose from"
