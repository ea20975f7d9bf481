"""Metrics against sums that a reader can do by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.metrics import average_precision_at, binomial_lower, bootstrap_interval, paired_test, recall_at


def test_recall_counts_the_target_among_the_first_k() -> None:
    assert recall_at(2, list("abc"), "b") == 1.0
    assert recall_at(1, list("abc"), "b") == 0.0
    assert recall_at(3, list("abc"), "x") == 0.0


def test_average_precision_by_hand() -> None:
    # hits at ranks 1 and 3, three relevant: (1/1 + 2/3) / 3 = 5/9
    assert average_precision_at(5, list("axbyz"), list("abc")) == pytest.approx(5 / 9)
    # cut at 2: one hit at rank 1, at most two possible: (1/1) / 2
    assert average_precision_at(2, list("axbyz"), list("abc")) == pytest.approx(1 / 2)
    # hit at rank 3 only: (1/3) / 1
    assert average_precision_at(5, list("xyazw"), ["a"]) == pytest.approx(1 / 3)


def test_average_precision_reaches_one_with_more_relevant_ids_than_places() -> None:
    # CIRCO: all of the first 2 of 5 relevant ids: (1/1 + 2/2) / min(2, 5) = 1
    assert average_precision_at(2, list("ab"), list("abcde")) == 1.0


def test_repeated_relevant_ids_count_once() -> None:
    assert average_precision_at(1, ["a"], ["a", "a"]) == 1.0


def test_an_id_ranked_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="ranked twice among the first 3"):
        average_precision_at(3, list("aab"), ["a"])
    with pytest.raises(ValueError, match="ranked twice"):
        recall_at(2, list("aa"), "a")


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        recall_at(0, ["a"], "a")
    with pytest.raises(ValueError, match="at least one relevant"):
        average_precision_at(1, ["a"], [])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True), st.sets(st.sampled_from("abcdefgh"), min_size=1))
def test_average_precision_lies_between_0_and_1_and_is_1_for_the_best_order(
    ranked: list[str], wanted: set[str]
) -> None:
    for k in range(1, 9):
        assert 0.0 <= average_precision_at(k, ranked, wanted) <= 1.0
    best = sorted("abcdefgh", key=lambda one: one not in wanted)
    assert average_precision_at(8, best, wanted) == 1.0


def test_interval_of_equal_values_is_a_point() -> None:
    assert bootstrap_interval([0.25] * 10) == (0.25, 0.25)


def test_interval_is_that_of_the_binomial() -> None:
    # 400 queries, half of them hits: standard error sqrt(0.5 * 0.5 / 400) = 0.025, so 0.5 -+ 1.96 * 0.025
    low, high = bootstrap_interval([0.0, 1.0] * 200, rounds=4000)
    assert low == pytest.approx(0.451, abs=0.006)
    assert high == pytest.approx(0.549, abs=0.006)


def test_interval_repeats_with_its_seed_and_moves_with_another() -> None:
    values = np.arange(50, dtype=np.float64)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_interval_refuses_nothing_and_nan() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        bootstrap_interval([1.0, math.nan])


def test_paired_test_of_equal_methods_is_one() -> None:
    assert paired_test([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]) == 1.0


def test_paired_test_matches_the_sign_test() -> None:
    # Ten differences of 1: of 2^10 sign patterns only all-plus and all-minus are as far out: p = 2 / 1024
    p = paired_test([1.0] * 10, [0.0] * 10, rounds=200_000)
    assert p == pytest.approx(2 / 1024, abs=4e-4)


def test_paired_test_is_symmetric_and_needs_pairs() -> None:
    a, b = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert paired_test(a, b) == paired_test(b, a)
    with pytest.raises(ValueError, match="got 2 and 1 values"):
        paired_test([1.0, 0.0], [1.0])


def test_the_lower_bound_of_a_share_that_never_failed() -> None:
    # All 300 of 300: the rate at which that has probability 0.05 is the 300th root of 0.05.
    assert binomial_lower(300, 300) == pytest.approx(0.05 ** (1 / 300))
    assert binomial_lower(299, 300) == pytest.approx(0.9843, abs=1e-4)
    # One of two: 1 - (1 - p)^2 = 0.05.
    assert binomial_lower(1, 2) == pytest.approx(1 - 0.95**0.5)
    assert binomial_lower(0, 9) == 0
    with pytest.raises(ValueError, match="successes"):
        binomial_lower(4, 3)
