"""Probabilities of choices, from what an engine tells of each token."""

from math import log

import pytest

from models.backends import choice_probabilities

ANSWER = [
    ('{"', {'{"': log(1.0)}),
    ("verdict", {"verdict": log(0.9), "yes": log(0.1)}),
    ('": "', {'": "': log(1.0)}),
    ("yes", {"yes": log(0.5), " Yes": log(0.1), "no": log(0.2), "maybe": log(0.2)}),
    ('"}', {'"}': log(1.0)}),
]


def test_the_step_that_took_a_choice_counts() -> None:
    # 0.5 + 0.1 for yes in two spellings, 0.2 for no
    assert choice_probabilities(ANSWER, ("yes", "no")) == pytest.approx((0.75, 0.25))
    assert choice_probabilities(ANSWER, ("no", "yes")) == pytest.approx((0.25, 0.75))


def test_an_answer_without_a_choice_has_none() -> None:
    assert choice_probabilities(ANSWER, ("left", "right")) is None
    assert choice_probabilities([], ("yes", "no")) is None


def test_a_choice_that_the_engine_tells_nothing_of_is_certain() -> None:
    assert choice_probabilities([("no", {"maybe": log(0.4)})], ("yes", "no")) == (0.0, 1.0)
