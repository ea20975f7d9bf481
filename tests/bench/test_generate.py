"""The ratio that `bench.generate` reports."""

import pytest

from bench.generate import neighbours


def test_every_turn_counts_with_the_one_before_it_and_the_one_after_it() -> None:
    # 9 / 10, 6 / 10, and 9 / 10 again with the turn after it; of the pairs alone the median would be 0.75.
    assert neighbours([10.0, 10.0], [9.0, 6.0]) == pytest.approx(0.9)


def test_one_disturbed_turn_changes_nothing() -> None:
    assert neighbours([10.0, 30.0, 10.0, 10.0], [9.0, 9.0, 9.0, 9.0]) == pytest.approx(0.9)


def test_ratio_of_one_round() -> None:
    assert neighbours([2.0], [1.5]) == 0.75
