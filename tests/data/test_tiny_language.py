"""What is written is read back with the same meaning; what is not of the language is not read."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tiny_edits import KINDS, Edit, apply_edits, look
from data.tiny_language import (
    HELD_OUT_PHRASES,
    STYLES,
    TRAINED,
    caption,
    captions_alike,
    describes,
    modification,
    read_caption,
    read_clause,
    read_modification,
)
from data.tiny_random_edits import draw_scene, edited, random_edit
from data.tiny_world import Scene, Thing, random_scene

SCENE = Scene(
    "white",
    (Thing("top left", "circle", "red", "large", "plain"), Thing("center", "star", "green", "small", "striped")),
)


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("make the circle blue", Edit("colour", look(shape="circle"), look(colour="blue"))),
        ("an orange heart", None),
        (
            "now the big red circle is blue",
            Edit("colour", look(shape="circle", colour="red", size="large"), look(colour="blue")),
        ),
        ("turn the star into a cross", Edit("shape", look(shape="star"), look(shape="cross"))),
        ("change the star to a big one", Edit("size", look(shape="star"), look(size="large"))),
        ("move the circle to the bottom left", Edit("position", look(shape="circle"), look(position="bottom left"))),
        ("put it on a pink background", Edit("background", background=frozenset({"pink"}))),
        ("add an orange heart", Edit("addition", added=look(shape="heart", colour="orange"))),
        ("there is no green star any more", Edit("removal", look(shape="star", colour="green"))),
        ("make it two green stars", Edit("count", look(shape="star", colour="green"), count=2)),
        ("make the elephant blue", None),
        ("make the circle blue please", None),
        ("", None),
    ],
)  # fmt: skip
def test_phrases_are_read(text: str, edit: Edit | None) -> None:
    assert read_clause(text) == edit


def test_a_text_of_several_changes_is_read_whole_or_not_at_all() -> None:
    assert len(read_modification("Remove the star, make the circle blue and add a red heart.") or []) == 3
    assert read_modification("remove the star and dance") is None


def test_a_caption_must_say_everything_once() -> None:
    right = "a big red circle in the top left and a little green striped star at the center on a white background"
    assert describes(right, SCENE)
    for wrong in (
        right.replace("red", "blue"),
        right.replace("striped ", ""),
        right.replace(" in the top left", ""),
        right.replace("white", "black"),
        right.replace(" on a white background", ""),
        right + " and a tree",
        "a big red circle in the top left on a white background",
    ):
        assert not describes(wrong, SCENE), wrong
    assert read_caption("I see nothing") is None


def test_held_out_phrasings_are_not_trained_ones() -> None:
    assert TRAINED.keys() == HELD_OUT_PHRASES.keys() == set(KINDS)
    for kind in KINDS:
        assert not set(TRAINED[kind]) & set(HELD_OUT_PHRASES[kind])
        assert len(TRAINED[kind]) >= 4
        assert len(HELD_OUT_PHRASES[kind]) >= 3


@given(st.integers(0, 10**9), st.booleans(), st.sampled_from(KINDS), st.sampled_from(STYLES))
def test_what_is_said_is_what_is_meant(seed: int, held_out: bool, kind: str, style: str) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng, held_out=int(held_out))
    assert describes(caption(scene, rng), scene)
    edit = random_edit(rng, scene, kind, held_out)
    if edit is None or edited(rng, scene, [edit], held_out) is None:
        return
    text = modification([edit], scene, rng, style, held_out)
    read = read_modification(text)
    assert read is not None, text
    meant, understood = apply_edits(scene, [edit]), apply_edits(scene, read)
    for patterns, others in ((meant, understood), (understood, meant)):
        result = draw_scene(rng, patterns[0], held_out)
        assert result is None or any(pattern.matches(result) for pattern in others), text


@given(st.integers(0, 10**9), st.sampled_from(KINDS))
def test_an_edited_caption_keeps_the_words_and_the_order(seed: int, kind: str) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng)
    edit = random_edit(rng, scene, kind)
    target = edited(rng, scene, [edit]) if edit else None
    if target is None:
        return
    before, after = captions_alike(scene, target, rng)
    assert describes(before, scene)
    assert describes(after, target)
    if kind == "removal":  # what is left stands as it stood
        kept = re.findall(r"\w+ \w+(?: \w+)?(?: \w+)? (?:in|at) the \w+(?: \w+)?", after)
        assert all(words in before for words in kept)
    if kind == "background":
        assert after == before.replace(scene.background, target.background)
