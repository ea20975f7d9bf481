"""Qualitative results of an evaluation on one page: queries, what was found for them, and which of it is right."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.artifact import write_atomically
from data.protocols import Answer
from tasks.measure import COMPOSED, JOINT, Evaluation, Measured
from tasks.report import template
from tasks.report_cards import Thumbnail, packed

SHOWN = 10
"""Images per answer."""
SIDE = 112
"""Longest side of a picture in pixels: a query makes about 40 KB of page."""


@dataclass(frozen=True)
class Found:
    """One image of an answer; `hit` is None where the targets are hidden."""

    rank: int
    picture: Thumbnail
    score: float
    hit: bool | None


@dataclass(frozen=True)
class Row:
    """The first images of one method's answer; `summary` says in words what was found."""

    method: str
    found: list[Found]
    summary: str


@dataclass(frozen=True)
class Shown:
    """A query with its answers; `missed` are targets that are in none of the rows."""

    query_id: str
    reference: Thumbnail
    modification: str
    target_text: str | None
    rows: list[Row]
    missed: list[Thumbnail]


@dataclass(frozen=True)
class Section:
    """A benchmark: a seeded sample of its queries."""

    name: str
    split: str
    total: int
    protocol: str
    shown: list[Shown]


def write_page(path: Path, evaluation: Evaluation, count: int, seed: int = 0) -> Path:
    """Write a self-contained HTML page: for each benchmark `count` queries, drawn at random, not chosen.

    Shown are the composed and, where there is one, the joint query of the first checkpoint.

    Args:
        path: the file, replaced.
        evaluation: with its benchmarks' images still there; one that has gone becomes a box that says so.
        count: queries per benchmark; all where there are no more.
        seed: of the draw.

    Returns:
        The path.
    """
    sections = []
    for name in dict.fromkeys(one.prepared.annotations.name for one in evaluation.measured):
        mine = [one for one in evaluation.measured if one.prepared.annotations.name == name and one.first]
        chosen = [one for one in mine if one.kind in (COMPOSED, JOINT)]
        written = {} if evaluation.texts is None else evaluation.texts.texts[name]
        sections.append(_section(chosen, written, count, seed))
    page = template("answers.html.j2").render(
        checkpoint=evaluation.encoded[0].checkpoint if evaluation.encoded else "",
        writer="" if evaluation.texts is None else evaluation.texts.writer,
        sections=sections,
        seed=seed,
        depth=SHOWN,
    )
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _section(measured: Sequence[Measured], texts: Mapping[str, str], count: int, seed: int) -> Section:
    prepared = next(one.prepared for one in measured if one.kind == COMPOSED)
    benchmark = prepared.benchmark
    places = sorted(random.Random(seed).sample(range(len(benchmark.queries)), min(count, len(benchmark.queries))))
    answers = {one.kind: {answer.query.query_id: answer for answer in one.answers} for one in measured}

    def picture(image_id: str) -> Thumbnail:
        return packed(image_id, lambda: benchmark.load_image(image_id), SIDE)

    shown = []
    for query in (benchmark.queries[place] for place in places):
        given = {kind: found[query.query_id] for kind, found in answers.items() if query.query_id in found}
        seen = {image for answer in given.values() for image in answer.ranked[:SHOWN]}
        pictures = {image: picture(image) for image in sorted(seen)}
        shown.append(
            Shown(
                query_id=query.query_id,
                reference=picture(query.reference_id),
                modification=query.modification,
                target_text=texts.get(query.query_id),
                rows=[row(kind, answer, pictures) for kind, answer in given.items()],
                missed=[picture(target) for target in query.targets if target not in seen],
            )
        )
    protocol = ", ".join(f"{name}: {choice}" for name, choice in prepared.protocol.items())
    return Section(benchmark.name, benchmark.split, len(benchmark.queries), protocol, shown)


def row(method: str, answer: Answer, pictures: Mapping[str, Thumbnail]) -> Row:
    """The first images of an answer, with its hits marked.

    Args:
        method: its name.
        answer: of one query.
        pictures: of the images, by id.
    """
    targets = answer.query.targets
    first = list(zip(answer.ranked, answer.scores, strict=True))[:SHOWN]
    found = [
        Found(rank, pictures[image], score, image in targets if targets else None)
        for rank, (image, score) in enumerate(first, start=1)
    ]
    ranks = [str(one.rank) for one in found if one.hit]
    if not targets:
        summary = "the targets of this split are not public"
    elif ranks:
        of = f" of {len(targets)} targets" if len(targets) > 1 else ""
        summary = f"{len(ranks)}{of} found, at rank {', '.join(ranks)}" if of else f"target at rank {ranks[0]}"
    else:
        summary = f"no target among the first {len(found)}"
    return Row(method, found, summary)
