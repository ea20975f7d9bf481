"""Claims and what two captions say to them: values that a reader can check by hand."""

import pytest

from tasks.filters import unsupported
from tasks.filters._claims import UNLIKE, Change, claims
from tests.tasks.filters.triplets import measured, triplet

BEFORE = "a brown dog in the top left and a small red ball on a grey background"
AFTER = "a brown dog in the top right, two birds and a small blue ball on a white background"


@pytest.mark.parametrize(
    ("modification", "found"),
    [
        ("Make the dog black, and add two birds.", [("dog", "black"), ("two", "bird")]),
        ("a cat instead of the dog", [("dog", "cat")]),  # what it is about comes first
        ("anything but a tiny dog", [("small", "dog")]),
        ("no dresses but a grey bus", [("dress",), ("gray", "bus")]),
        ("the dog isn't brown, nothing is lost", [("dog", "brown")]),
        ("make it different", []),
    ],
)
def test_what_a_modification_claims(modification: str, found: list[tuple[str, ...]]) -> None:
    assert [claim.told for claim in claims(modification)] == found


@pytest.mark.parametrize("text", ["remove the dog", "no dog any more", "the dog isn't brown", "take the dog away"])
def test_what_goes(text: str) -> None:
    assert [claim.gone for claim in claims(text)] == [True]
    assert not claims("move the dog")[0].gone


@pytest.mark.parametrize(
    ("claim", "support"),
    [
        ("the ball is blue now", 1),
        ("the ball is green now", 0),
        ("the red ball becomes little", 0.5),  # it is small in both; at least something of it changes
        ("the dog is in the top right", 1),
        ("the dog is in the bottom right", 0.25),  # right, not bottom
        ("the dog is brown", 0),  # it is, and was
        ("the cat is blue", 0),
        ("the background is white", 1),
        ("make it a white picture", 1),
        ("two birds", 1),
        ("add a bird", 1),
        ("there are three birds now", 0),
        ("there are two dogs now", 0),  # one of each
        ("there is no red ball any more", 1),
        ("there is no ball any more", 0),
        ("the red ball is gone", 1),
        ("the dog isn't brown any more", 0),
        ("remove the cat", 0),
    ],
)
def test_what_captions_say_to_a_claim(claim: str, support: float) -> None:
    (one,) = claims(claim)
    assert Change(BEFORE, AFTER).support(one) == support


def test_things_are_counted() -> None:
    change = Change("a red ball on a lawn", "a red ball, a blue ball and a red ball on a lawn")
    assert [change.support(claims(text)[0]) for text in ("three balls", "two red balls", "two balls")] == [1, 1, 0]
    same = Change("a red ball and a blue ball", "a green ball and a red ball")
    assert same.support(claims("two balls")[0]) == 0  # two before and after


def test_what_is_bare_has_lost_words() -> None:
    change = Change("a striped red shirt and a blue skirt", "a red shirt and a dotted blue skirt")
    assert [change.support(claims(f"the {thing} is plain")[0]) for thing in ("shirt", "skirt")] == [1, 0]


def test_a_place_is_one_of_its_own() -> None:
    change = Change("a red ball in the top center", "a red ball in the center")
    assert [change.support(claims(f"the ball is in the {place}")[0]) for place in ("center", "top center")] == [1, 0]


def test_doubted_words_are_counted_and_told() -> None:
    row = triplet("the ball is green, the dog is in the top right and there is a cat")
    rows = [row | {"reference_caption": BEFORE, "target_caption": AFTER}, row | {"reference_caption": None}]
    one, none = measured(unsupported.Config(), *rows)
    assert one.value == (2 + 1) / 6  # ball, green, cat of these and dog, top, right
    assert one.found.endswith(": 'the ball is green'; 'there is a cat'")
    assert none == (None, "no_caption")
    as_text = rows[0] | {"target_caption": None, "target_text": AFTER}
    assert measured(unsupported.Config(), as_text)[0].value == 1 / 2
    assert measured(unsupported.Config(), rows[0] | {"modification": "make it different"})[0].value == 0


TWINS = (
    "a large blue diamond in the top left and a large blue diamond in the bottom left",
    "a small yellow ring at the right and a large blue diamond in the bottom left",
)


def test_of_things_that_are_alike_either_may_be_meant() -> None:
    """By the likest pairs the diamond at the bottom stays as it is, and the other has become a ring."""
    one, other = (
        triplet(text) for text in ("the blue diamond is yellow and goes to the right", "the blue diamond is red")
    )
    rows = [row | dict(zip(("reference_caption", "target_caption"), TWINS, strict=True)) for row in (one, other)]
    right, wrong = (found.value for found in measured(unsupported.Config(), *rows))
    assert right == 0
    assert wrong == 1


def test_a_new_thing_may_be_told_in_part() -> None:
    """Of five words that are said of what comes, the last is wrong; of an old thing nothing is passed for that."""
    change = Change("a red ball", "a red ball and a small striped blue cat on the left")
    detail, other = claims("a small striped blue cat on the right, a small striped dog")
    assert change.support(detail) == 4 / 5
    assert change.support(other) == 2 / 3
    assert change.support(claims("a white dog on the left")[0]) == 0, "less than half"
    assert change.support(claims("the red ball is blue")[0]) == 0
    twin = Change("a red ball on the left", "a red ball on the left and a small red ball on the right")
    assert twin.support(claims("the red ball is on the left")[0]) == 0, "it was so"


def test_an_unlike_pair_costs() -> None:
    change = Change("a red ball and a blue cat", "a red ball and a green dog")
    likest, said = dict(change.became), claims("the red ball is a green dog")
    assert change.support(said[0]) == 0
    share, each = change.doubts(said)
    assert each == [1], "what is told is by the likest pairs"
    assert (
        share == UNLIKE * 1.0
    )  # the red ball has a partner that is as like as can be, and takes one that is not at all
    assert change.became == likest


def test_long_captions_are_read_by_the_likest_pairs_alone() -> None:
    many = [f"a {colour} ball" for colour in ("red", "blue", "green", "brown", "black", "white")]
    change = Change(", ".join(many), ", ".join(["a purple cat", *many[1:]]))
    assert change.doubts(claims("the blue ball is a purple cat"))[0] == 1 - change.support(
        claims("the blue ball is a purple cat")[0]
    )


def test_a_thing_without_a_partner_is_not_gone_for_that() -> None:
    change = Change("a small dog", "a dog sitting by a fence")
    assert change.doubts(claims("remove the dog")) == (1, [1])
