"""Equal digests among any number of rows."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from tasks.repeats import Repeats


def digests(*names: str) -> list[str]:
    return [sha256(name.encode()).hexdigest() for name in names]


@pytest.fixture
def repeats(tmp_path: Path) -> Repeats:
    return Repeats(tmp_path / "digests")


def test_the_first_row_of_a_kind_is_kept(repeats: Repeats) -> None:
    repeats.add(digests("a", "b", "a"), [0, 1, 3])
    repeats.add(digests("b", "c", "a"), [4, 5, 9])
    fates = repeats.find(None)
    assert {row: fates.of(row) for row in range(10) if fates.of(row)} == {3: (0, 0), 4: (1, 0), 9: (0, 0)}
    assert fates.originals == {0, 1}


def test_what_occurs_too_often_is_all_gone(repeats: Repeats) -> None:
    repeats.add(digests("a", "b", "a", "b", "a"), range(5))
    fates = repeats.find(2)
    assert {row: fates.of(row) for row in range(5)} == {0: (0, 3), 1: None, 2: (0, 3), 3: (1, 0), 4: (0, 3)}
    assert fates.originals == {1}


def test_nothing_at_all(repeats: Repeats, tmp_path: Path) -> None:
    repeats.add([], [])
    fates = repeats.find(1)
    assert fates.of(0) is None
    assert not (tmp_path / "digests").exists()


def test_against_a_dictionary(repeats: Repeats) -> None:
    names = np.random.default_rng(0).integers(0, 300, 1000).astype(str).tolist()
    for start in range(0, 1000, 70):
        repeats.add(digests(*names[start : start + 70]), range(start, min(start + 70, 1000)))
    fates = repeats.find(5)
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        first.setdefault(name, row)
        count = names.count(name)
        expected = (first[name], count) if count > 5 else None if first[name] == row else (first[name], 0)
        assert fates.of(row) == expected
