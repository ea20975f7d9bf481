"""Questions and right answers over the tiny world: what the shipped MLLM is taught, and examined on.

Each task has the name of the prompt that asks it. Answers are right by construction; `is_right` judges what a model
writes by parsing it and comparing it with the scenes, in any wording.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from data import tiny_language as language
from data.tiny_edits import (
    KINDS,
    Edit,
    InapplicableError,
    apply_edits,
    difference,
    fits,
    holds,
    look,
    look_of,
    scene_distance,
)
from data.tiny_random_edits import edited, random_edit, random_edits
from data.tiny_world import BACKGROUNDS, DOMAIN, POSITIONS, Scene, Thing, free_positions, is_held_out, random_scene

TASKS = (
    "caption",
    "mra_cir/modification",
    "mvft_ji/modification",
    "mvft_ji/target_text",
    "instruct_cir/instruction",
    "judge",
)
SECOND = "_b"  # ends the names of the second, differently built set of prompts
IN_BOTH_SETS = frozenset(TASKS) - {"judge"}
ONE_WORDING = 3  # of target texts: words that are free to choose would be noise in what is hardest to learn
ANY = "any"
RANDOM_SCENES = 100  # a modification must place the target nearer than each of so many random scenes


@dataclass(frozen=True)
class Lesson:
    """One question.

    Attributes:
        task: one of `TASKS`.
        scenes: the images shown, in order.
        fields: what fills the prompt's placeholders, `style` as the name of a style.
        answer: the fields of the answer, right.
        scene: what the question is about where no image is shown.
        prompt: the prompt that asks it: the task's, or the one of the second set.
    """

    task: str
    scenes: tuple[Scene, ...]
    fields: Mapping[str, str]
    answer: Mapping[str, str]
    scene: Scene | None = None
    prompt: str = ""


def _scene(rng: random.Random) -> Scene:
    """Draw a scene, sometimes one with several equal things."""
    scene = random_scene(rng)
    if rng.random() < 0.15 and (edit := random_edit(rng, scene, "count")) is not None:
        return edited(rng, scene, [edit]) or scene
    return scene


def told(edits: Sequence[Edit], reference: Scene, rng: random.Random) -> list[Edit]:
    """Vary what a person would leave open: additions not fully described, equal things counted, old values denied."""
    result = []
    for edit in edits:
        if edit.added is not None:
            added = dict(edit.added)
            twin = [t for t in reference.things if all(getattr(t, n) in added[n] for n in added if n != "position")]
            alike = sum((t.shape, t.colour) == (twin[0].shape, twin[0].colour) for t in reference.things) if twin else 0
            if twin and alike == 1 and len(edits) == 1 and rng.random() < 0.7:
                result.append(Edit("count", look_of(twin[0]), count=2))
                continue
            if rng.random() < 0.2:
                edit = replace(edit, added=look(shape=added["shape"], colour=added["colour"]))
        elif edit.kind in ("colour", "shape", "background") and rng.random() < 0.06:
            edit = _denied(edit, reference)
        result.append(edit)
    return result


def _denied(edit: Edit, reference: Scene) -> Edit:
    if edit.background is not None:
        return Edit("negation", background=frozenset(BACKGROUNDS) - {reference.background})
    thing = next(t for t in reference.things if edit.source is not None and fits(edit.source, t))
    others = frozenset(DOMAIN[edit.kind]) - {getattr(thing, edit.kind)}
    return Edit("negation", edit.source, look(**{edit.kind: others}))


def twins(rng: random.Random, count: int = 1) -> tuple[Scene, Scene, list[Edit]]:
    """Draw a scene, `count` edits and what they lead to."""
    while True:
        scene = _scene(rng)
        edits = random_edits(rng, scene, count)
        target = edited(rng, scene, edits) if len(edits) == count else None
        if target is not None and not any(is_held_out(t) for t in target.things) and not scene.same_as(target):
            return scene, target, edits


def siblings(rng: random.Random) -> tuple[Scene, Scene]:
    """Draw two different members of one family: both a few edits away from the same prototype, as in a rank window."""
    kinds = [kind for kind in KINDS if kind != "negation"]
    while True:
        prototype = random_scene(rng)
        members = [edited(rng, prototype, random_edits(rng, prototype, 1 + (rng.random() < 0.4), kinds)) for _ in "ab"]
        a, b = members
        if a and b and not a.same_as(b) and not any(is_held_out(t) for t in (*a.things, *b.things)):
            return a, b


def _caption(rng: random.Random) -> Lesson:
    scene = _scene(rng)
    return Lesson("caption", (scene,), {}, {"caption": language.caption(scene, rng)})


def _pair_modification(rng: random.Random) -> Lesson:
    draw = rng.random()
    if draw < 0.6:
        reference, target, edits = twins(rng)
    elif draw < 0.7:
        reference, target, _ = twins(rng, 2)
        edits = difference(reference, target)
    else:
        reference, target = siblings(rng)
        edits = difference(reference, target)
    style = rng.choice(language.STYLES)
    if draw >= 0.6 or rng.random() < 0.3:
        edits = told(edits, reference, rng)
    fields = {
        "style": style,
        "reference_caption": language.caption(reference, rng),
        "target_caption": language.caption(target, rng),
    }
    text = language.modification(edits, reference, rng, style)
    return Lesson("mra_cir/modification", (reference, target), fields, {"modification": text})


def _far_away(edit: Edit, scene: Scene) -> Edit:
    """Move to the farthest free place instead of any: a rule is learned sooner than to avoid what is taken."""
    assert edit.source is not None
    (thing,) = (t for t in scene.things if fits(edit.source, t))
    row, column = divmod(POSITIONS.index(thing.position), 3)

    def distance(position: str) -> int:
        other_row, other_column = divmod(POSITIONS.index(position), 3)
        return (row - other_row) ** 2 + (column - other_column) ** 2

    return replace(edit, change=look(position=max(free_positions(scene), key=distance)))


def _one_edit(rng: random.Random, scene: Scene) -> tuple[str, Edit]:
    """Draw a kind to ask for and an edit to answer with; a kind that does not apply is answered with one that does."""
    kind = rng.choice((ANY, *KINDS))
    for attempt in range(100):
        wanted = rng.choice(KINDS) if kind == ANY or attempt >= 10 else kind
        edit = random_edit(rng, scene, wanted)
        if edit is not None and edit.kind == "position":
            edit = _far_away(edit, scene)
        if edit is not None and edited(rng, scene, [edit]) is not None:
            return kind, edit
    raise RuntimeError(f"no edit applies to {scene}")


def _single_modification(rng: random.Random) -> Lesson:
    scene = _scene(rng)
    kind, edit = _one_edit(rng, scene)
    style = rng.choice(language.STYLES)
    text = language.modification([edit], scene, rng, style)
    return Lesson("mvft_ji/modification", (scene,), {"style": style, "edit_type": kind}, {"modification": text})


def _target_text(rng: random.Random) -> Lesson:
    scene, target, edits = twins(rng, 1 if rng.random() < 0.75 else 2)
    text = language.modification(edits, scene, rng, rng.choice(language.STYLES))
    return Lesson(
        "mvft_ji/target_text",
        (scene,),
        {"modification": text},
        {"target_text": language.captions_alike(scene, target, random.Random(ONE_WORDING))[1]},
    )


def _instruction(rng: random.Random) -> Lesson:
    while True:
        scene = _scene(rng)
        kind, edit = _one_edit(rng, scene)
        target = edited(rng, scene, [edit])
        if target is not None and not any(is_held_out(t) for t in target.things):
            break
    before, after = language.captions_alike(scene, target, rng)
    instruction = language.modification([edit], scene, rng, rng.choice(language.TYPED))
    answer = {"instruction": instruction, "modified_caption": after}
    fields = {"edit_type": kind, "caption": before}
    return Lesson("instruct_cir/instruction", (), fields, answer, scene)


def _judge(rng: random.Random) -> Lesson:
    """Half of the requests are true of the pair.

    Of the false ones, half belong to another pair; the others are near misses: one change of the true request is
    another value, another thing or another kind.
    """
    wanted, elsewhere = rng.random() < 0.5, rng.random() < 0.5
    while True:
        reference, target, edits = _asked_pair(rng)
        asked_of = reference
        if not wanted and elsewhere:
            asked_of, _, edits = _asked_pair(rng)
        elif not wanted:
            i = rng.randrange(len(edits))
            kind = edits[i].kind if rng.random() < 0.5 else rng.choice(KINDS)
            other = random_edit(rng, reference, kind)
            edits = [*edits[:i], *([other] if other else []), *edits[i + 1 :]]
        if not edits:
            continue
        text = language.modification(edits, asked_of, rng, rng.choice(language.STYLES))
        claims = language.read_modification(text) or []
        if all(holds(claim, reference, target) for claim in claims) == wanted:
            break
    return Lesson("judge", (reference, target), {"modification": text}, {"verdict": "yes" if wanted else "no"})


def _asked_pair(rng: random.Random) -> tuple[Scene, Scene, list[Edit]]:
    """Draw a pair, half of them single-edit twins, and true changes, not all of them where there are several."""
    if rng.random() < 0.5:
        return twins(rng)
    reference, target = siblings(rng)
    edits = told(difference(reference, target), reference, rng)
    return reference, target, rng.sample(edits, min(len(edits), rng.randint(1, 3)))


_MAKERS = dict(
    zip(
        TASKS,
        (_caption, _pair_modification, _single_modification, _target_text, _instruction, _judge),
        strict=True,
    )
)


def lesson(task: str, rng: random.Random, second: float = 0.0) -> Lesson:
    """Draw one question of `task` with a right answer, with probability `second` asked by the second set's prompt."""
    drawn = _MAKERS[task](rng)
    return replace(drawn, prompt=task + SECOND if task in IN_BOTH_SETS and rng.random() < second else task)


# --- Examination ---


def _modification_is_right(text: str, reference: Scene, target: Scene, rng: random.Random) -> bool:
    """Every stated change is true, and the edited reference is nearer to the target than any of 100 random scenes."""
    edits = language.read_modification(text)
    if not edits or not all(_is_true(edits, i, reference, target) for i in range(len(edits))):
        return False
    try:
        patterns = apply_edits(reference, edits)
    except InapplicableError:
        return False
    near = min(pattern.distance(target) for pattern in patterns)
    others = [random_scene(rng) for _ in range(RANDOM_SCENES)]
    return all(near < pattern.distance(other) for pattern in patterns[:1] for other in others)


def _is_true(edits: Sequence[Edit], i: int, reference: Scene, target: Scene) -> bool:
    """Say whether the i-th change brings the reference nearer to the target, made alone or after all the others.

    Where one thing takes the place of another, neither that the one goes nor that the other comes does so alone.
    """
    if holds(edits[i], reference, target):
        return True
    others = [*edits[:i], *edits[i + 1 :]]
    return _left(edits, reference, target) < _left(others, reference, target)


def _left(edits: Sequence[Edit], reference: Scene, target: Scene) -> float:
    """What must still change after `edits`; infinite where they mean nothing."""
    try:
        return min(pattern.distance(target) for pattern in apply_edits(reference, edits))
    except InapplicableError:
        return math.inf


def _applies(text: str, scene: Scene) -> bool:
    edits = language.read_modification(text)
    if not edits:
        return False
    try:
        return bool(apply_edits(scene, edits))
    except InapplicableError:
        return False


def _leads_to(modification: str, scene: Scene, described: str) -> bool:
    """Say whether a caption describes, fully, what a modification leads to."""
    edits, pattern = language.read_modification(modification), language.read_caption(described)
    if not edits or pattern is None or any(len(dict(one)) < 5 for one in pattern.looks):
        return False
    things = [{name: min(allowed) for name, allowed in one} for one in pattern.looks]
    result = Scene(min(pattern.background), tuple(Thing(**thing) for thing in things))
    try:
        return any(p.matches(result) for p in apply_edits(scene, edits)) and scene_distance(scene, result) > 0
    except InapplicableError:
        return False


def is_right(question: Lesson, answer: Mapping[str, str]) -> bool:
    """Judge an answer by what it says, not by its words.

    A missing field, or a text outside the world's language, is wrong.
    """
    scene = question.scenes[0] if question.scenes else question.scene
    assert scene is not None
    if set(answer) != set(question.answer):
        return False
    if question.task == "caption":
        return language.describes(answer["caption"], scene)
    if question.task == "mra_cir/modification":
        rng = random.Random(repr(question.scenes))
        return _modification_is_right(answer["modification"], scene, question.scenes[1], rng)
    if question.task == "mvft_ji/modification":
        return _applies(answer["modification"], scene)
    if question.task == "mvft_ji/target_text":
        return _leads_to(question.fields["modification"], scene, answer["target_text"])
    if question.task == "instruct_cir/instruction":
        return _leads_to(answer["instruction"], scene, answer["modified_caption"])
    return answer["verdict"] == question.answer["verdict"]
