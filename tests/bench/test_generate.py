"""The ratio that `bench.generate` reports."""

import pytest

from bench.generate import neighbours


def test_ratio_is_of_turns_next_to_each_other() -> None:
    # A machine that gets slower and slower: every pair is 10 to 9 at the same speed, and one turn was disturbed.
    speed = [1, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07]
    ours, theirs = [10 * one for one in speed[::2]], [9 * one for one in speed[1::2]]
    ours[1] *= 2
    assert neighbours(ours, theirs) == pytest.approx(0.9, abs=0.01)


def test_ratio_of_one_round() -> None:
    assert neighbours([2.0], [1.5]) == 0.75
