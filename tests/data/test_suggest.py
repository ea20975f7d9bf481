import pytest

from data.suggest import did_you_mean


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("circ", " did you mean 'circo'?"),
        ("CIRCO", " did you mean 'circo'?"),
        ("xyz", " choose from: circo, cirr, fashion_iq"),
    ],
)
def test_nearest_choice_or_all(word: str, end: str) -> None:
    assert did_you_mean(word, ["fashion_iq", "cirr", "circo"]) == end


def test_nothing_to_choose_from() -> None:
    assert did_you_mean("x", []) == " there is none to choose from"
