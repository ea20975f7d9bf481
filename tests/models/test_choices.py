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


def steps(*tokens: str, **shares: float) -> list[tuple[str, dict[str, float]]]:
    """Certain tokens; the one that is "yes" or "no" where it counts is written in capitals, with `shares`."""
    return [
        (token.lower(), {word: log(share) for word, share in shares.items()} if token.isupper() else {token: 0.0})
        for token in tokens
    ]


@pytest.mark.parametrize(
    "tokens",
    [
        ("I see", " no", " mismatch", ': {"', "verdict", '": "', "YES", '"}'),
        ('{"', "verdict", '": "', "YES", '"}', " There is", " no", " difference"),
        ('{"', "verdict", '": "', "YES", '"}', " not", '{"', "verdict", '": "', "no", '"}'),
        ('{"', "reason", '": "', "no", " mismatch", '", "', "verdict", '": "', "YES", '."}'),
        ("```json\n{", '"Verdict"', ": ", '"YES"', "}\n```"),
        ("{'", "verdict", "': '", "YES", "'}", " no"),
        ("<think>", "no", ', or {"', "verdict", '": "', "no", '"}?', "</think>", '{"', "verdict", '":"', "YES", '"}'),
        ("Either", "[/think]", " no", ": ", "YES"),  # no object: the last counts
    ],
)
def test_what_is_said_beside_the_object_does_not_count(tokens: tuple[str, ...]) -> None:
    assert choice_probabilities(steps(*tokens, yes=0.6, no=0.2), ("yes", "no")) == pytest.approx((0.75, 0.25))


def test_a_choice_in_several_tokens_has_none() -> None:
    assert choice_probabilities(steps("no", ': {"v": "', "ye", "s", '"}'), ("yes", "no")) is None
