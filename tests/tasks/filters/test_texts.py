"""Filters that read texts alone: values that a reader can check by hand."""

import pytest

from tasks.filters import (
    far_apart,
    image_talk,
    names_target,
    near_duplicate,
    reference_leak,
    same_text,
    too_generic,
    too_long,
)
from tasks.filters import ungrounded as invents
from tasks.filters._words import in_common
from tests.tasks.filters.triplets import REFERENCE, measured, triplet


@pytest.mark.parametrize(
    ("modification", "value"),
    [("make it red", 3), ("Make it red, and don't move it.", 7), ("t-shirt instead", 2)],
)
def test_words_are_counted(modification: str, value: int) -> None:
    assert measured(too_long.Config(), triplet(modification))[0].value == value


def test_the_threshold_itself_is_kept() -> None:
    two = too_long.Config(threshold=2)
    assert [two.keep(value) for value in (1, 2, 3, None)] == [True, True, False, True]
    least = too_generic.Config(threshold=2)
    assert [least.keep(value) for value in (1, 2, 3, None)] == [False, True, True, True]


def test_a_share_is_the_worst_of_what_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert too_long.Config(drop=0.29).settled(values).threshold == 71
    assert too_generic.Config(drop=0.29).settled(values).threshold == 30
    assert too_long.Config(drop=0.5).settled([1, 1, 1, 2]).threshold == 1
    assert too_generic.Config(drop=0.5).settled([1, 1, 1, 2]).threshold == 1, "what is equal stays"
    assert too_long.Config(drop=0).settled(values).threshold == 100
    assert too_long.Config(drop=0.9999999).settled(values).threshold == 1
    assert too_long.Config(threshold=3, drop=0.5).settled([]).threshold == 3, "nothing was measured"
    assert too_long.Config(threshold=3).settled(values).threshold == 3


@pytest.mark.parametrize(
    ("modification", "value"),
    [("Make it look different.", 0), ("change the object", 0), ("make it red", 1), ("a dog instead of a cat", 2)],
)
def test_telling_words_are_counted(modification: str, value: int) -> None:
    assert measured(too_generic.Config(), triplet(modification))[0].value == value


@pytest.mark.parametrize(
    ("modification", "found"),
    [
        ("Unlike the first image, the circle in the second picture is red", "first image, second picture"),
        ("as in image 2", "image 2"),
        ("the target shows a dog", "the target shows"),
        ("both photos have a dog", "both photos"),
        ("the first car is red", ""),
        ("put a picture on the wall", ""),
        ("hit the target", ""),
    ],
)
def test_talk_about_images_is_found(modification: str, found: str) -> None:
    (one,) = measured(image_talk.Config(), triplet(modification))
    assert one.found == found
    assert one.value == len([part for part in found.split(", ") if part])


def test_how_much_of_a_caption_is_repeated() -> None:
    # Of small, red, circle, top, left, white, background it has red and circle.
    (one,) = measured(reference_leak.Config(), triplet("the red circle becomes a blue square"))
    assert one.value == pytest.approx(2 / 7)
    assert one.found.endswith("repeats circle, red")
    # Of large, blue, square, top, left, white, background all but large.
    (other,) = measured(names_target.Config(), triplet("a blue square in the top left, white background"))
    assert other.value == pytest.approx(6 / 7)
    whole = measured(reference_leak.Config(), triplet(f"{REFERENCE}, but blue"))[0].value
    assert whole == 1


def test_without_a_caption_there_is_nothing_to_measure() -> None:
    rows = [triplet("make it red", reference_caption=None), triplet("make it red", reference_caption="a red circle")]
    assert measured(reference_leak.Config(), *rows) == [(None, "no_caption"), (None, "short_caption")]


def test_a_target_text_counts_as_the_targets_caption() -> None:
    row = triplet("make it red", target_caption=None, target_text="one two red four five six")
    assert measured(names_target.Config(), row)[0].value == pytest.approx(1 / 5)  # "one" has no content


def test_similarity_of_target_text_and_reference_caption() -> None:
    rows = [triplet("make it red", target_text=text) for text in (REFERENCE, REFERENCE.replace("red", "green"))]
    same, other, none = measured(same_text.Config(), *rows, triplet("make it red"))
    assert same.value == 1
    assert other.value == pytest.approx(2 * 11 / 24)  # 11 of 12 words match, in both texts
    assert none == (None, "no_target_text")


def test_words_of_neither_caption() -> None:
    (one,) = measured(invents.Config(), triplet("make the red circle a green square"))
    assert one.value == pytest.approx(1 / 4)  # green; red, circle and square are in a caption
    assert one.found.endswith("invents green")
    assert measured(invents.Config(), triplet("red", reference_caption=None, target_caption=None))[0].value is None


def test_what_two_captions_have_in_common() -> None:
    # red circle left: 3 words and 2 pairs; red square left: likewise; in common are red and left.
    assert in_common("a red circle on the left", "a red square on the left") == pytest.approx(2 * 2 / 10)
    assert in_common(REFERENCE, REFERENCE) == 1
    rows = [triplet("x", reference_caption="a red circle", target_caption=text) for text in ("a red square", None)]
    one, none = measured(far_apart.Config(), *rows)
    assert (one.value, none) == (pytest.approx(2 * 1 / 6), (None, "no_caption"))
    as_text = triplet("x", reference_caption="a red circle", target_caption=None, target_text="a red circle")
    assert measured(far_apart.Config(), as_text)[0].value == 1


def test_the_score_of_a_pair() -> None:
    rows = [triplet("make it red", score=0.75), triplet("make it red", score=None)]
    assert [one.value for one in measured(near_duplicate.Config(), *rows)] == [0.75, None]
