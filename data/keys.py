"""Digests of values, files and folders: what artifacts, prompts and weights are recognised by."""

import hashlib
import json
import math
import zlib
from pathlib import Path

# Made once: `json.dumps` makes one for every call that is not of the plainest kind.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_SCALARS = frozenset({str, int, bool, type(None)})


def canonical(obj: object) -> str:
    """The one JSON text of `obj`: keys sorted, no spaces, ASCII only.

    Tuples are written as lists. `1` and `1.0` differ.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
        TypeError: for anything that is not JSON (sets, paths, models, mappings with keys other than strings).
    """
    if not _is_plain(obj):
        _refuse_foreign(obj, "value")  # slower, because it knows where it is
    return _ENCODER.encode(obj)


def digest(obj: object) -> str:
    """SHA-256 of `canonical(obj)`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(obj).encode("ascii")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum(path: Path) -> str:
    """CRC-32 of a file's bytes, 8 hexadecimal digits: it tells damage, not one content from another."""
    found = 0
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            found = zlib.crc32(piece, found)
    return f"{found:08x}"


def _is_plain(obj: object) -> bool:
    kind = type(obj)
    if kind in _SCALARS:
        return True
    if kind is float:
        return math.isfinite(obj)  # type: ignore[arg-type]
    if kind is dict:
        for key, item in obj.items():  # type: ignore[attr-defined]
            if type(key) is not str or not (type(item) in _SCALARS or _is_plain(item)):
                return False
        return True
    return kind in (list, tuple) and all(map(_is_plain, obj))  # type: ignore[call-overload]


def _refuse_foreign(obj: object, where: str) -> None:
    if obj is None or isinstance(obj, (str, bool, int)):
        return
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{where} is {obj}; canonical JSON has no NaN and no infinity")
    elif isinstance(obj, (list, tuple)):
        for place, item in enumerate(obj):
            _refuse_foreign(item, f"{where}[{place}]")
    elif isinstance(obj, dict):
        for key, item in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; keys of canonical JSON are strings")
            _refuse_foreign(item, f"{where}.{key}")
    else:
        raise TypeError(f"{where} is of type {type(obj).__name__}; canonical JSON holds only plain values")
