"""Windows: what is one, and which ranks it holds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.windows import Window


def test_the_default_is_the_papers() -> None:
    assert Window() == Window(by="rank", low=51, high=60)
    assert Window().ranks(10) == range(51, 61)


@given(st.integers(-3, 80), st.integers(-3, 80))
def test_only_ranks_in_order_are_accepted(low: int, high: int) -> None:
    if 1 <= low <= high:
        assert Window(low=low, high=high).ranks(1) == range(low, high + 1)
    else:
        with pytest.raises(ValidationError):
            Window(low=low, high=high)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 60, "high": 51}, "need 1 <= low <= high, got low=60, high=51"),
        ({"low": 50.5}, "ranks are whole numbers, got low=50.5, high=60"),
        ({"by": "percentile"}, "a window by percentile needs both low and high"),
        ({"by": "score", "low": 0.8}, "a window by score needs both low and high"),
        ({"by": "percentile", "low": 1, "high": 1}, "need 0 <= low < high <= 100, got low=1, high=1"),
        ({"by": "percentile", "low": 90, "high": 101}, "need 0 <= low < high <= 100"),
        ({"by": "score", "low": 0.8, "high": 1.1}, "scores need -1 <= low <= high <= 1, got low=0.8, high=1.1"),
        ({"by": "similarity", "low": 0.8, "high": 0.9}, "'rank', 'percentile' or 'score'"),
        ({"low": float("nan")}, "finite"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Window(**fields)


@pytest.mark.parametrize(
    ("low", "high", "pool", "first", "last"),
    [
        (0, 1, 10_000, 1, 100),
        (1, 2, 10_000, 101, 200),  # the end of one window is not the start of the next
        (0.5, 0.6, 10_000, 51, 60),  # the papers' ranks
        (0, 100, 7, 1, 7),
        (28, 29, 100, 29, 29),  # 0.29 * 100 would be 28.999999999999996
        (50, 100, 3, 2, 3),  # ranks 1, 2, 3 are 33.3 %, 66.7 %, 100 %
    ],
)
def test_percentiles_become_ranks_of_the_pool(low: float, high: float, pool: int, first: int, last: int) -> None:
    assert Window(by="percentile", low=low, high=high).ranks(pool) == range(first, last + 1)


def test_percentiles_between_two_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"percentiles 0\.1 to 0\.2 of a pool of 99 candidates .* at least 1\.01 %"):
        Window(by="percentile", low=0.1, high=0.2).ranks(99)
    with pytest.raises(ValueError, match="of an empty pool hold no rank"):
        Window(by="percentile", low=0, high=100).ranks(0)


def test_a_window_by_score_has_no_ranks() -> None:
    assert Window(by="score", low=0.8, high=0.96).ranks(100) is None
    assert str(Window(by="score", low=0.8, high=0.96)) == "scores 0.8 to 0.96"


def test_a_number_is_written_one_way() -> None:
    assert Window(low=51.0).model_dump_json() == Window().model_dump_json()
    assert Window.model_validate({"low": "41", "high": "50"}).model_dump() == {"by": "rank", "low": 41, "high": 50}


@pytest.mark.parametrize(
    ("written", "window"),
    [
        ("51-60", Window()),
        ("ranks 51 to 60", Window()),
        (" rank 1-10 ", Window(low=1, high=10)),
        ("percentile 0-1", Window(by="percentile", low=0, high=1)),
        ("scores 0.8 to 0.96", Window(by="score", low=0.8, high=0.96)),
        ("score -0.5--0.1", Window(by="score", low=-0.5, high=-0.1)),
    ],
)
def test_a_window_can_be_written_in_words(written: str, window: Window) -> None:
    assert Window.model_validate(written) == window
    assert Window.model_validate(str(window)) == window


@pytest.mark.parametrize("written", ["", "51", "60-51", "1.2.3-4", "rnak 1-2", "score 0.5-2"])
def test_other_words_are_refused(written: str) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate(written)
