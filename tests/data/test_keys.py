import hashlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.keys import canonical, digest, file_digest

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_canonical_sorts_and_packs() -> None:
    assert canonical({"b": [1, 2.5, None], "a": (True, "é")}) == '{"a":[true,"\\u00e9"],"b":[1,2.5,null]}'


def test_digest_is_sha256_of_the_canonical_text() -> None:
    assert digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


def test_one_and_one_point_zero_differ() -> None:
    assert digest(1) != digest(1.0)


def test_file_names_that_are_not_utf8_have_a_digest() -> None:
    assert len(digest(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))) == 64


@given(st.dictionaries(st.text(), PLAIN))
def test_order_of_keys_is_irrelevant(mapping: dict[str, object]) -> None:
    assert digest(mapping) == digest(dict(reversed(mapping.items())))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_outside_json_are_refused_with_their_place(number: float) -> None:
    with pytest.raises(ValueError, match=r"value\.a\[1\] is "):
        canonical({"a": [0, number]})


@pytest.mark.parametrize("foreign", [{1, 2}, Path("a"), b"a", {1: "a"}])
def test_what_is_not_json_is_refused(foreign: object) -> None:
    with pytest.raises(TypeError, match="canonical JSON"):
        canonical([foreign])


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
