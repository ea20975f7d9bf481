"""The error for a path that a source cannot read: what is there, what was expected, which source would read it."""

import importlib
from collections import Counter
from pathlib import Path

import data.sources as sources

_LOOKED_AT = 10_000
_ONE = {"folders": "a folder", "names without a suffix": "a name without a suffix"}


def wrong_root(path: Path, source: str, expected: str) -> Exception:
    """The exception to raise; asks every other source whether it recognises the path.

    Args:
        path: what was given.
        source: name of the source that cannot read it.
        expected: what it reads.
    """
    if not path.exists():
        return FileNotFoundError(
            f"source={source}: there is nothing at {path} (seen from {Path.cwd()}); give {expected}"
        )
    found = f"a file {path.suffix or 'without a suffix'}" if path.is_file() else _content(path)
    hints = []
    for name in sources.names():
        recognises = getattr(importlib.import_module(f"data.sources.{name}"), "recognises", None)
        what = recognises(path) if recognises is not None and name != source else None
        if what:
            hints.append(f"source={name} (for {what})")
    did_you_mean = f"; did you mean {' or '.join(hints)}?" if hints else ""
    return ValueError(f"source={source}: found {found} at {path}; expected {expected}{did_you_mean}")


def _content(folder: Path) -> str:
    kinds: Counter[str] = Counter()
    for _, entry in zip(range(_LOOKED_AT), folder.iterdir(), strict=False):
        kinds["folders" if entry.is_dir() else f"*{entry.suffix}" if entry.suffix else "names without a suffix"] += 1
    most = (f"{count} {kind}" if count > 1 else _ONE.get(kind, f"1 {kind}") for kind, count in kinds.most_common(4))
    return ", ".join(most) or "an empty folder"
