"""Carrying out a plan: captions first, then step by step, each row with the answers that it has got so far."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

from data.progress import progress
from prompts import Prompt
from tasks.asking import Asker
from tasks.outcomes import Known, Outcomes
from tasks.plans import Plan, Row
from tasks.requests import Question

Skip = Callable[[int], None]
"""Is told of rows for which nothing is asked."""
Questions = Callable[[Skip], Iterable[Question]]

_CAPTIONS = "caption"
# Rows put together at a time; with them are in memory the captions of twice as many images.
_BATCH = 256


@dataclass
class Texts:
    """A row with what is known of it.

    Attributes:
        row: the row.
        texts: by placeholder or field of an answer.
        request_ids: of the answers that `texts` come from, in the order of the steps.
        fault: reason and raw answer, if one of them failed.
        again: whether its last answer was withdrawn and another is due.
    """

    row: Row
    texts: dict[str, str]
    request_ids: list[str] = field(default_factory=list)
    fault: tuple[str, str] | None = None
    again: bool = False


@dataclass
class Spent:
    """What one prompt came to; see `tasks.asking.Figures`.

    Attributes:
        prompt: its name.
        seconds: from the first question to the last outcome, without the engine's start.
    """

    prompt: str
    asked: int = 0
    reused: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0


_COUNTED = ("asked", "reused", "retries", "tokens_in", "tokens_out")


def write_texts(plan: Plan, asker: Asker, outcomes: Outcomes) -> list[Spent]:
    """Ask all that the plan asks for; returns what each prompt cost.

    A text that repeats an earlier one of its source, and a target text that says what the caption says, is withdrawn
    and asked for anew, as often as another bad answer would be. That happens in whole rounds, so that the result does
    not depend on the order in which answers come.
    """
    spent: list[Spent] = []
    if plan.caption_prompt is not None and len(plan.captioned):
        with _measured(asker, plan.caption_prompt, spent):
            ids = (value.as_py() for value in plan.captioned)
            rendered = plan.caption_prompt.render()
            questions = (Question(image_id, rendered, (image_id,)) for image_id in ids)
            _ask(asker, plan.caption_prompt, lambda skip: questions, outcomes, _CAPTIONS, len(plan.captioned))
    for place in range(len(plan.steps)):
        with _measured(asker, plan.steps[place].prompt, spent):
            _write_step(plan, place, asker, outcomes)
    return spent


def resolved(plan: Plan, outcomes: Outcomes, upto: int | None = None) -> Iterator[Texts]:
    """All rows of the plan with the answers of the captions and of the first `upto` steps, or of all."""
    steps = range(len(plan.steps) if upto is None else upto)
    rows = plan.rows()
    while batch := list(islice(rows, _BATCH)):
        images = {image_id for row in batch for image_id in (row.reference_id, row.target_id) if image_id is not None}
        captions = outcomes.find(_CAPTIONS, images) if len(plan.captioned) else {}
        answers = [outcomes.find(str(place), (row.row_id for row in batch)) for place in steps]
        for row in batch:
            yield _resolve(plan, row, captions, answers)


def _resolve(plan: Plan, row: Row, captions: dict[str, Known], answers: list[dict[str, Known]]) -> Texts:
    result = Texts(row, dict(row.texts), fault=row.fault)
    for name, image_id in (("reference_caption", row.reference_id), ("target_caption", row.target_id)):
        if result.fault is None and name not in result.texts and image_id in captions:
            _take(result, captions[image_id], "caption_", {"caption": name})
    if "reference_caption" in result.texts:
        result.texts["caption"] = result.texts["reference_caption"]
    for step, known in zip(plan.steps, answers, strict=False):  # the steps so far
        if result.fault is None:
            _take(result, known[row.row_id], step.prefix, {})
            result.again = known[row.row_id].again
    return result


def _take(result: Texts, known: Known, prefix: str, names: dict[str, str]) -> None:
    if known.texts is None:
        result.fault = (f"{prefix}{known.reason}", known.raw)
        return
    result.texts |= {names.get(name, name): text for name, text in known.texts.items()}
    if known.request_id is not None:
        result.request_ids.append(known.request_id)


def _write_step(plan: Plan, place: int, asker: Asker, outcomes: Outcomes) -> None:
    prompt, total = plan.steps[place].prompt, plan.sources * plan.texts
    _ask(asker, prompt, partial(_questions, plan, place, outcomes), outcomes, str(place), total)
    may_repeat = plan.texts > 1 and plan.modification in prompt.answer
    if not may_repeat and plan.target_text not in prompt.answer:
        return
    for attempt in range(1, asker.retries + 2):
        withdrawn = _withdraw(plan, place, outcomes)
        asker.figures.rejections += withdrawn
        again = withdrawn.total()
        if not again or attempt > asker.retries:
            return
        asker.figures.retries += again
        _ask(asker, prompt, partial(_questions_again, plan, place, outcomes, attempt), outcomes, str(place), again)


def _ask(asker: Asker, prompt: Prompt, questions: Questions, outcomes: Outcomes, step: str, total: int) -> None:
    """Ask and remember what became of it."""
    with progress(total, f"{prompt.name} texts") as advance:
        for outcome in asker.ask(prompt, questions(advance)):
            outcomes.put(step, outcome)
            advance(1)


def _questions(plan: Plan, place: int, outcomes: Outcomes, skip: Skip) -> Iterator[Question]:
    """One for each row that came so far. Where a source's rows come to the same words, later ones are further draws."""
    source, seen = "", Counter[str]()
    for one in resolved(plan, outcomes, place):
        if one.fault is not None:
            skip(1)
            continue
        if one.row.source != source:
            source, seen = one.row.source, Counter()
        question = _question(plan, place, one)
        yield replace(question, draw=seen[question.rendered])
        seen[question.rendered] += 1


def _questions_again(plan: Plan, place: int, outcomes: Outcomes, attempt: int, skip: Skip) -> Iterator[Question]:
    """One for each row whose answer was withdrawn; a draw that no row of its source has had."""
    for one in resolved(plan, outcomes, place + 1):
        if one.again:
            yield replace(_question(plan, place, one), draw=attempt * plan.texts + one.row.draw)


def _question(plan: Plan, place: int, one: Texts) -> Question:
    prompt = plan.steps[place].prompt
    rendered = prompt.render(**{name: one.texts[name] for name in prompt.placeholders})
    ids = (one.row.reference_id, one.row.target_id)
    shown = tuple(name for name in ids if name is not None)[: prompt.images]
    return Question(one.row.row_id, rendered, shown, temperature=plan.steps[place].temperature)


def _withdraw(plan: Plan, place: int, outcomes: Outcomes) -> Counter[str]:
    """Take back repeated and unchanged texts of a step; returns how many, by reason."""
    asked = set(plan.steps[place].prompt.answer)
    source, seen = "", set[str]()
    withdrawn: Counter[str] = Counter()
    for one in resolved(plan, outcomes, place + 1):
        if one.row.source != source:
            source, seen = one.row.source, set()
        if one.fault is not None:
            continue
        reason = None
        if plan.target_text in asked and plain(one.texts[plan.target_text]) == plain(one.texts["caption"]):
            reason = "unchanged"
        if plan.modification in asked and plain(one.texts[plan.modification]) in seen:
            reason = "repeated"
        if reason is None:
            seen.add(plain(one.texts[plan.modification]))
            continue
        known = outcomes.find(str(place), [one.row.row_id])[one.row.row_id]
        outcomes.withdraw(str(place), one.row.row_id, known, reason)
        withdrawn[reason] += 1
    return withdrawn


def plain(text: str) -> str:
    """A text without what does not make it another: case, punctuation, spaces."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


@contextmanager
def _measured(asker: Asker, prompt: Prompt, spent: list[Spent]) -> Iterator[None]:
    figures = asker.figures
    before = {name: getattr(figures, name) for name in _COUNTED}
    start_seconds, started = figures.start_seconds, time.perf_counter()
    yield
    seconds = time.perf_counter() - started - (figures.start_seconds - start_seconds)
    spent.append(
        Spent(prompt.name, **{name: getattr(figures, name) - before[name] for name in _COUNTED}, seconds=seconds)
    )
