"""Teaching the small MLLM: from nothing, and on from a checkpoint."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from data.artifact import Artifact
from data.config import Resources
from data.tiny_edits import difference
from data.tiny_language import read_modification
from data.tiny_lessons import Lesson, lesson
from models import tiny
from tasks.lessons import APART_FROM, CARRIED_OUT, COMPARED, LEARNED_LAST, asked_apart, asked_last, draw_at, mix_at
from tasks.teach import TeachConfig, teach, teach_facts


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("seen")
    tiny.tower().save_pretrained(folder / "tower")
    return Artifact(folder, "see", "0" * 64)


def taught(folder: Path, config: TeachConfig, seen: Artifact) -> tuple[int, LlavaForConditionalGeneration]:
    folder.mkdir()
    counts = teach.fn(folder, config, seen, resources=Resources(workers=1))
    return counts.read, LlavaForConditionalGeneration.from_pretrained(folder / "checkpoint", dtype=torch.float32)


@pytest.mark.slow
def test_teaching_goes_on_from_a_checkpoint(tmp_path: Path, seen: Artifact) -> None:
    small = TeachConfig(steps=2, batch=2, parts=2, layers=1)
    read, first = taught(tmp_path / "first", small, seen)
    assert read == 2 * 2 * 2
    start = tmp_path / "first" / "checkpoint"
    on = small.model_copy(update={"start": start, "after": 2, "steps": 3})
    read, second = taught(tmp_path / "second", on, seen)
    assert read == 2 * 2
    vocabularies = [
        AutoTokenizer.from_pretrained(tmp_path / name / "checkpoint").get_vocab() for name in ("first", "second")
    ]
    assert vocabularies[0] == vocabularies[1]
    before, after = first.state_dict(), second.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model" in name for name in moved)
    assert not any("vision_tower" in name for name in moved), "the tower is frozen"
    assert teach_facts(small, seen) == {}
    other = on.model_copy(update={"start": tmp_path / "second" / "checkpoint"})
    assert teach_facts(on, seen) != teach_facts(other, seen)


def test_the_share_of_tasks_follows_the_steps() -> None:
    assert mix_at(0)["caption"] > mix_at(4800)["caption"]
    for step in (0, 1200, 2000, 2700, 4799, 4800, 8099, 8100):
        assert sum(mix_at(step).values()) == pytest.approx(1.0)


def test_the_questions_of_a_task_follow_the_steps() -> None:
    assert [draw_at(step, COMPARED) for step in (0, APART_FROM - 1, APART_FROM)] == [lesson, lesson, asked_apart]
    assert [draw_at(step, CARRIED_OUT[0]) for step in (4799, 4800, APART_FROM)] == [lesson, asked_last, asked_last]
    assert draw_at(APART_FROM, "caption") is lesson


@pytest.mark.parametrize("task", CARRIED_OUT)
def test_what_is_learned_last_is_asked_more_often(task: str) -> None:
    def share(draw: Callable[[str, random.Random, float], Lesson]) -> float:
        rng = random.Random(0)
        questions = [draw(task, rng, 0.25) for _ in range(200)]
        texts = [one.fields.get("modification") or one.answer["instruction"] for one in questions]
        kinds = [{edit.kind for edit in read_modification(text) or ()} for text in texts]
        return sum(bool(some & LEARNED_LAST) for some in kinds) / len(kinds)

    assert share(asked_last) > share(lesson) + 0.1


def test_pairs_that_differ_in_several_things_are_asked_more_often() -> None:
    def share(draw: Callable[[str, random.Random, float], Lesson]) -> float:
        rng = random.Random(0)
        scenes = [draw(COMPARED, rng, 0.25).scenes for _ in range(200)]
        return sum(len(difference(*pair)) > 1 for pair in scenes) / len(scenes)

    assert share(asked_apart) > share(lesson) + 0.25
