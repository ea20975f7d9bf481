"""The checkpoints that come with the repository: whole, small, and as good as their cards say."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from data.config import Resources
from data.tiny_lessons import is_right
from models.backends import Engine, Sampling, load_backend
from models.checkpoints import SHIPPED, resolve
from tasks.examine import BARS, questions, request
from tasks.replies import Rejected, read_reply

NAMES = ("tiny_blip2", "tiny_llava")


def test_they_are_small() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sorted(path.name for path in SHIPPED.iterdir()) == list(NAMES)
    assert sum(path.stat().st_size for path in files) <= 16e6


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_card_with_its_licence(name: str) -> None:
    folder = Path(resolve(name).path_or_id)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "python -m flows run tiny_models" in card


def marks_of_the_card() -> dict[str, float]:
    card = (SHIPPED / "tiny_llava" / "README.md").read_text(encoding="utf-8")
    return {task: float(mark) for task, mark in re.findall(r"^\| `(.+?)` \| ([\d.]+) \|", card, re.MULTILINE)}


def test_the_card_states_every_mark_and_all_reach_their_bars() -> None:
    marks = marks_of_the_card()
    assert marks.keys() > BARS.keys()  # rank-window pairs are reported without a bar
    assert not {task: marks[task] for task, bar in BARS.items() if marks[task] < bar}


@pytest.mark.slow
def test_the_mllm_answers_as_well_as_its_card_says() -> None:
    # 40 questions have a standard error of some 8 points: 20 points below the card would be another model, not chance.
    marks = marks_of_the_card()
    generator = load_backend("vllm")(resolve("tiny_llava"), Sampling(), Engine(), Resources(), 2)
    percent = {}
    told = []
    try:
        for task in BARS:
            asked = questions(task, 40, seed=1)
            requests = [request(question, task, i) for i, question in enumerate(asked)]
            if task == "judge":
                requests = [replace(one, choices=("yes", "no")) for one in requests]
            responses = generator.generate(requests)
            told += [(response.text, response.probabilities) for response in responses if task == "judge"]
            right = 0
            for question, response in zip(asked, responses, strict=True):
                reply = read_reply(response.text, response.finish_reason, tuple(question.answer))
                right += not isinstance(reply, Rejected) and is_right(question, reply)
            percent[task] = 100 * right / len(asked)
    finally:
        generator.close()
    assert {task: mark for task, mark in percent.items() if mark < marks[task] - 20} == {}
    for text, probabilities in told:  # the word is the likelier one, at temperature 0
        assert probabilities is not None
        assert sum(probabilities) == pytest.approx(1)
        assert ("yes" in text) == (probabilities[0] > probabilities[1])
