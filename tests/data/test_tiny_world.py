"""Scenes, edits and their meaning, with cases small enough to check by eye."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from data.tiny_drawing import draw, png
from data.tiny_edits import (
    KINDS,
    Edit,
    InapplicableError,
    Pattern,
    apply_edits,
    difference,
    exactly,
    holds,
    look,
    look_of,
    scene_distance,
)
from data.tiny_random_edits import edited, pool, pool_scene, random_edit
from data.tiny_world import DOMAIN, HELD_OUT, POSITIONS, Scene, Thing, is_held_out, random_scene

CIRCLE = Thing("top left", "circle", "red", "large", "plain")
STAR = Thing("center", "star", "green", "small", "striped")
SCENE = Scene("white", (CIRCLE, STAR))


def test_things_are_kept_in_reading_order() -> None:
    assert Scene("white", (STAR, CIRCLE)).things == (CIRCLE, STAR)


def test_distance_counts_attributes_background_and_missing_things() -> None:
    other = Scene("black", (Thing("top left", "circle", "blue", "small", "plain"), STAR))
    assert scene_distance(SCENE, other) == 1 + 2  # background; colour and size
    assert scene_distance(SCENE, Scene("white", (CIRCLE,))) == 3  # one thing without a partner
    assert scene_distance(SCENE, Scene("white", (STAR, CIRCLE), jitter=5)) == 0


MOVED = Thing("center", "circle", "red", "large", "plain")
RECOLOURED = Thing("top left", "circle", "blue", "large", "plain")
HEART = Thing("bottom left", "heart", "red", "small", "dotted")
COPY = Thing("bottom right", "star", "green", "small", "striped")


@pytest.mark.parametrize(
    ("edit", "result"),
    [
        (Edit("colour", look_of(CIRCLE), look(colour="blue")), Scene("white", (RECOLOURED, STAR))),
        (Edit("position", look_of(CIRCLE), look(position="center")), Scene("white", (MOVED, STAR))),
        (Edit("background", background=frozenset({"pink"})), Scene("pink", (CIRCLE, STAR))),
        (Edit("removal", look_of(STAR)), Scene("white", (CIRCLE,))),
        (Edit("addition", added=look(shape="heart", colour="red")), Scene("white", (CIRCLE, STAR, HEART))),
        (Edit("count", look_of(STAR), count=2), Scene("white", (CIRCLE, STAR, COPY))),
    ],
)
def test_an_edit_leads_to_its_result_and_nothing_else(edit: Edit, result: Scene) -> None:
    (pattern,) = apply_edits(SCENE, [edit])
    assert pattern.matches(result)
    assert holds(edit, SCENE, result)
    assert not pattern.matches(SCENE)
    assert not holds(edit, SCENE, Scene("gray", (CIRCLE, STAR)))


def test_negation_allows_every_other_value() -> None:
    (pattern,) = apply_edits(
        SCENE, [Edit("negation", look_of(CIRCLE), look(colour=frozenset(DOMAIN["colour"]) - {"red"}))]
    )
    recoloured = [Scene("white", (Thing("top left", "circle", c, "large", "plain"), STAR)) for c in DOMAIN["colour"]]
    assert sum(pattern.matches(scene) for scene in recoloured) == 6  # all of seven but red


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InapplicableError, match="nothing in the scene"):
        apply_edits(SCENE, [Edit("removal", look(shape="heart"))])
    with pytest.raises(InapplicableError, match="already red"):
        apply_edits(SCENE, [Edit("colour", look_of(CIRCLE), look(colour="red"))])
    with pytest.raises(InapplicableError, match="already white"):
        apply_edits(SCENE, [Edit("background", background=frozenset({"white"}))])
    with pytest.raises(InapplicableError, match="nothing would be left"):
        apply_edits(Scene("white", (CIRCLE,)), [Edit("removal", look_of(CIRCLE))])
    with pytest.raises(InapplicableError, match="removed"):
        apply_edits(SCENE, [Edit("removal", look_of(CIRCLE)), Edit("size", look_of(CIRCLE), look(size="small"))])


def test_a_source_that_fits_two_things_has_two_readings() -> None:
    scene = Scene("white", (CIRCLE, Thing("center", "circle", "green", "large", "plain")))
    assert len(apply_edits(scene, [Edit("size", look(shape="circle"), look(size="small"))])) == 2


def test_a_description_with_fewer_attributes_is_nearer() -> None:
    free = Pattern(frozenset({"white"}), (look(shape="circle"), look(shape="star")))
    assert free.distance(SCENE) == 0
    assert exactly(SCENE).distance(Scene("white", (CIRCLE, Thing("top right", "star", "red", "small", "striped")))) == 2


def test_differences_lead_from_one_scene_to_the_other() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        a, b = random_scene(rng), random_scene(rng)
        edits = difference(a, b)
        assert not edits if a.same_as(b) else any(pattern.matches(b) for pattern in apply_edits(a, edits))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_random_edits_of_every_kind_apply(kind: str, held_out: bool) -> None:
    made = 0
    for seed in range(300):
        rng = random.Random(seed)
        scene = random_scene(rng, held_out=int(held_out))
        edit = random_edit(rng, scene, kind, held_out)
        result = edit and edited(rng, scene, [edit], held_out)
        if edit is None or result is None:
            continue
        made += 1
        assert any(pattern.matches(result) for pattern in apply_edits(scene, [edit]))
        assert not result.same_as(scene)
        if not held_out:
            assert not any(is_held_out(thing) for thing in result.things)
    assert made >= 5


def test_a_pool_is_the_same_at_any_size_and_never_shows_what_is_held_out() -> None:
    assert list(pool(5, seed=3)) == list(pool(8, seed=3))[:5]
    assert pool_scene(250, 1) != pool_scene(250, 2)
    seen = {(thing.shape, thing.colour) for scene in pool(1000) for thing in scene.things}
    assert not seen & HELD_OUT
    assert len(seen) == 8 * 7 - len(HELD_OUT)  # every other pair of shape and colour appears


def test_members_of_a_family_are_near_their_prototype() -> None:
    within = [scene_distance(pool_scene(0), pool_scene(i)) for i in range(1, 100)]
    across = [scene_distance(pool_scene(0), pool_scene(i)) for i in range(100, 1000, 100)]
    assert max(within) <= 2 * 3  # two edits, each a thing more or less at most
    assert 2 * sum(within) / len(within) < sum(across) / len(across)


def test_drawing_shows_background_colour_and_place() -> None:
    pixels = draw(Scene("black", (Thing("bottom right", "square", "red", "large", "plain"),)))
    assert pixels.shape == (96, 96, 3)
    assert pixels.dtype == np.uint8
    assert pixels[80, 80].tolist() == [214, 28, 36]
    assert pixels[16, 16].max() <= 22  # black, give or take 4


def test_every_thing_of_the_world_is_drawn_differently() -> None:
    pictures = {
        draw(Scene("gray", (Thing(position, shape, colour, size, texture),))).tobytes()
        for position in POSITIONS[:1]
        for shape in DOMAIN["shape"]
        for colour in DOMAIN["colour"]
        for size in DOMAIN["size"]
        for texture in DOMAIN["texture"]
    }
    assert len(pictures) == 8 * 7 * 2 * 3


def test_png_holds_what_was_drawn() -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(SCENE)))), draw(SCENE))
