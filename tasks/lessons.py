"""Lessons of the tiny world as mini-batches of token ids and pixels, asked by the prompts that users use."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

import prompts
from data.tiny_edits import difference
from data.tiny_language import STYLES, read_modification
from data.tiny_lessons import ANY, IN_BOTH_SETS, SECOND, TASKS, Lesson, lesson
from models import tiny
from tasks.see import drawn

# From a step on, the share of each task among the mini-batches, which are of one task each, so that little is padded.
# Seeing comes before comparing, and judging last: it has one word an answer to learn from.
MIX = {
    start: dict(zip(TASKS, shares, strict=True))
    for start, shares in (
        (0, (0.16, 0.26, 0.08, 0.22, 0.18, 0.10)),
        (1200, (0.06, 0.2, 0.08, 0.24, 0.26, 0.16)),
        (2000, (0.05, 0.15, 0.07, 0.24, 0.27, 0.22)),
        (2700, (0.03, 0.15, 0.05, 0.2, 0.27, 0.3)),
        # What is learned last, which thing of several is meant.
        (4800, (0.04, 0.12, 0.04, 0.3, 0.38, 0.12)),
        # Pairs that differ in several things, as those of a rank window do.
        (8100, (0.03, 0.58, 0.04, 0.14, 0.15, 0.06)),
    )
}


# From this step on, of the tasks in which an edit is carried out in words, fewer questions are asked that the model
# answers by now: to change a size, to move or remove something, it has to know which thing is meant before it names it.
MEANT_FROM = 4800
CARRIED_OUT = ("mvft_ji/target_text", "instruct_cir/instruction")
LEARNED_LAST = frozenset({"size", "position", "removal"})
EASY_AGAIN = 0.6  # share of the other questions that are drawn anew

# From this step on, of pairs of images, fewer that differ in one thing only.
APART_FROM = 8100
COMPARED = "mra_cir/modification"
TWINS_AGAIN = 0.8  # share of these that are drawn anew


def mix_at(step: int) -> dict[str, float]:
    """Share of each task at a step."""
    return MIX[max(start for start in MIX if start <= step)]


def rendered(question: Lesson) -> str:
    """Fill the prompt of a question's task, as the generation stage does."""
    fields = dict(question.fields)
    if "style" in fields:
        fields["style"] = prompts.load(f"styles/{fields['style']}").text
    return prompts.load(question.prompt).render(**fields)


def fixed_texts() -> list[str]:
    """Texts that are one token each: constant parts of the prompts, the styles, and what frames an answer's fields."""
    found = []
    for name in (*TASKS, *(task + SECOND for task in TASKS if task in IN_BOTH_SETS)):
        prompt = prompts.load(name)
        found += tiny.fixed_parts(prompt.text)
        found += [f'{{"{prompt.answer[0]}": "', *(f'", "{field}": "' for field in prompt.answer[1:]), '"}']
    return [*found, *(prompts.load(f"styles/{name}").text for name in STYLES)]


def corpus(seed: int) -> list[str]:
    """Texts to learn a vocabulary from: the variable parts of questions and answers."""
    rng = random.Random(f"corpus/{seed}")
    texts: list[str] = []
    for _ in range(1500):
        for task in TASKS:
            question = lesson(task, rng)
            texts += [*question.fields.values(), *question.answer.values()]
    return texts


@dataclass(frozen=True)
class Plan:
    """What decides a stream: its seed, questions per mini-batch, mini-batches per step, share of the second set."""

    seed: int
    batch: int
    parts: int
    second: float


class Lessons:
    """The mini-batches of some steps, of one task each: `input_ids`, `labels` (B, L), `pixel_values` (N, 3, 96, 96).

    What a seed gives a step is always the same, so that a resumed run sees what it would have seen. Of the parts of a
    step, each of `world` processes makes its own.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, plan: Plan, steps: Sequence[int], rank: int = 0, world: int = 1
    ) -> None:
        self.tokenizer, self.plan, self.steps = tokenizer, plan, steps
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in self.steps:
            name = f"teach/{self.plan.seed}/{step}"
            mix = mix_at(step)
            tasks = random.Random(name).choices(list(mix), list(mix.values()), k=self.plan.parts)
            for part in range(self.rank, self.plan.parts, self.world):
                rng = random.Random(f"{name}/{part}")
                draw = draw_at(step, tasks[part])
                yield batch([draw(tasks[part], rng, self.plan.second) for _ in range(self.plan.batch)], self.tokenizer)


def draw_at(step: int, task: str) -> Callable[[str, random.Random, float], Lesson]:
    """What draws a question of a task at a step."""
    if step >= MEANT_FROM and task in CARRIED_OUT:
        return asked_last
    return asked_apart if step >= APART_FROM and task == COMPARED else lesson


def asked_last(task: str, rng: random.Random, second: float) -> Lesson:
    """Draw a question of a task in which an edit is carried out, more often one of those that are learned last.

    Where the model is free to choose what to change, nothing is: it would learn to choose what it can do least.
    """
    while True:
        question = lesson(task, rng, second)
        if question.fields.get("edit_type") == ANY:
            return question
        text = question.fields.get("modification") or question.answer["instruction"]
        kinds = {edit.kind for edit in read_modification(text) or ()}
        if kinds & LEARNED_LAST or rng.random() >= EASY_AGAIN:
            return question


def asked_apart(task: str, rng: random.Random, second: float) -> Lesson:
    """Draw a question on a pair of images, more often one of a pair that differs in several things."""
    while True:
        question = lesson(task, rng, second)
        if len(difference(*question.scenes)) > 1 or rng.random() >= TWINS_AGAIN:
            return question


def batch(questions: Sequence[Lesson], tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Turn questions of one task into padded token ids, labels (-100 outside the answer) and pixels."""
    patches = [tokenizer.convert_tokens_to_ids(tiny.IMAGE_TOKEN)] * (tiny.IMAGE_SIZE // tiny.PATCH) ** 2
    user, answer = tokenizer.convert_tokens_to_ids([tiny.USER, tiny.ANSWER])
    asked = tokenizer([rendered(question) for question in questions], add_special_tokens=False)["input_ids"]
    written = tokenizer([json.dumps(dict(q.answer)) for q in questions], add_special_tokens=False)["input_ids"]
    rows, labels = [], []
    for question, before, after in zip(questions, asked, written, strict=True):
        prefix = [user, *patches * len(question.scenes), *before, answer]
        after = [*after, tokenizer.eos_token_id]
        rows.append(torch.tensor(prefix + after))
        labels.append(torch.tensor([-100] * len(prefix) + after))
    result = {
        "input_ids": nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }
    scenes = [scene for question in questions for scene in question.scenes]
    if scenes:
        result["pixel_values"] = drawn(scenes)
    return result
