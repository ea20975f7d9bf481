"""Seeded choices of references."""

import pytest

from data.draws import chosen_references, lot

IDS = [f"image-{place:03d}" for place in range(100)]


def test_without_a_limit_all_are_chosen() -> None:
    assert chosen_references(reversed(IDS), None, 0) == IDS
    assert chosen_references(IDS, 1000, 0) == IDS


def test_a_larger_limit_adds_and_swaps_none() -> None:
    few, more = (chosen_references(IDS, limit, 7) for limit in (10, 30))
    assert len(few) == 10
    assert more == sorted(more)
    assert set(few) < set(more) < set(IDS)
    assert chosen_references(more, 10, 7) == few  # choosing twice is choosing once
    assert chosen_references(IDS, 10, 8) != few


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="a limit of at least 1 reference, or none, got 0"):
        chosen_references(IDS, 0, 0)


def test_lots_differ_by_purpose_seed_and_name() -> None:
    assert len({lot("a", 0, "x"), lot("b", 0, "x"), lot("a", 1, "x"), lot("a", 0, "y")}) == 4
    assert lot("a", 0, "x") == lot("a", 0, "x")
