"""Right answers are judged right, wrong ones wrong."""

import random
from collections.abc import Iterator

import pytest

from data import tiny_language as language
from data.tiny_edits import KINDS, Edit, difference, holds
from data.tiny_lessons import TASKS, Lesson, is_right, lesson
from data.tiny_random_edits import pool_scene, random_edit
from data.tiny_world import Scene, Thing, is_held_out


def drawn(task: str, count: int) -> list:  # type: ignore[type-arg]
    return [lesson(task, random.Random(f"{task}/{i}")) for i in range(count)]


@pytest.mark.parametrize("task", TASKS)
def test_given_answers_are_right(task: str) -> None:
    # A denied value leaves so much open that another scene can be as near: the pair task allows for one in twenty.
    right = sum(is_right(question, question.answer) for question in drawn(task, 200))
    assert right >= (190 if task == "mra_cir/modification" else 200)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "judge"])
def test_answers_to_another_question_are_mostly_wrong(task: str) -> None:
    questions = drawn(task, 100)
    limit = 40 if task == "mvft_ji/modification" else 12  # another background suits many scenes
    moved = zip(questions, [*questions[1:], questions[0]], strict=True)
    assert sum(is_right(question, other.answer) for question, other in moved) <= limit


@pytest.mark.parametrize("task", TASKS)
def test_nonsense_and_missing_fields_are_wrong(task: str) -> None:
    question = drawn(task, 1)[0]
    assert not is_right(question, dict.fromkeys(question.answer, "banana"))
    assert not is_right(question, {})


def test_a_judge_sees_as_many_true_requests_as_false_ones() -> None:
    verdicts = [question.answer["verdict"] for question in drawn("judge", 400)]
    assert 160 <= verdicts.count("yes") <= 240


@pytest.mark.parametrize("task", TASKS)
def test_no_lesson_shows_what_is_held_out(task: str) -> None:
    for question in drawn(task, 200):
        scenes = [*question.scenes, *([question.scene] if question.scene else [])]
        assert not any(is_held_out(thing) for scene in scenes for thing in scene.things)


def test_the_only_thing_may_be_taken_away_if_another_comes() -> None:
    star, ring = Thing("center", "star", "cyan", "small", "plain"), Thing("top left", "ring", "red", "large", "striped")
    scenes = (Scene("white", (star,)), Scene("white", (ring,)))

    def right(text: str, reference: Scene = scenes[0], target: Scene = scenes[1]) -> bool:
        answer = {"modification": text}
        return is_right(Lesson("mra_cir/modification", (reference, target), {}, answer), answer)

    assert right("take away the cyan star and add a big red striped ring in the top left")
    assert not right("take away the cyan star"), "nothing would be left"
    assert not right("take away the cyan star and add a small green diamond in the top right")
    both = Scene("white", (star, ring))
    assert not right("take away the cyan star and add a big red striped ring in the top left", target=both)


def told_pairs(count: int) -> Iterator[tuple[Scene, Scene, list[Edit]]]:
    """Images of a pool, most of which have nothing in common, with all that differs."""
    for i in range(count):
        rng = random.Random(f"pair/{i}")
        reference, target = (pool_scene(rng.randrange(3000), 7) for _ in range(2))
        if edits := difference(reference, target):
            yield reference, target, edits


def says(edits: list[Edit], reference: Scene, target: Scene) -> bool:
    answer = {"modification": language.modification(edits, reference, random.Random(0), "sentence")}
    return is_right(Lesson("mra_cir/modification", (reference, target), {}, answer), answer)


def test_a_text_that_tells_every_difference_is_right() -> None:
    pairs = list(told_pairs(300))
    assert any(not holds(edit, a, b) for a, b, edits in pairs for edit in edits), "things take the place of others"
    assert all(says(edits, a, b) for a, b, edits in pairs)


def test_one_false_change_among_true_ones_is_wrong() -> None:
    right = tried = 0
    for i, (reference, target, edits) in enumerate(told_pairs(300)):
        rng = random.Random(f"false/{i}")
        false = random_edit(rng, reference, rng.choice([kind for kind in KINDS if kind != "negation"]))
        if false is None or false in edits or holds(false, reference, target):
            continue
        tried += 1
        right += says([*edits, false], reference, target)
    assert tried > 150
    assert right == 0
