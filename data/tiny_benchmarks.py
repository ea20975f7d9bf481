"""How the tiny world's two benchmarks are made, and why their truth is exact.

A group is a base scene and variants of it by one or two edits; the gallery is all groups. A query asks, from a base,
for an edit in a phrasing that no training text uses; but for some backgrounds, the edit concerns a shape-colour pair
that no training image shows. Its targets are found by meaning: every gallery image that the *text* can lead to, the
base excluded, whatever group it is of.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.benchmarks import Benchmark, Query
from data.keys import digest
from data.tiny_drawing import draw
from data.tiny_edits import KINDS, Edit, Pattern, apply_edits, scene_distance
from data.tiny_language import TYPED, modification, read_modification
from data.tiny_random_edits import edited, random_edit
from data.tiny_world import Scene, random_scene

SPLITS = ("val", "test")
SUBSET = 5  # as CIRR: six members, the reference taken out


@dataclass(frozen=True)
class Plan:
    """How many of what, and which kinds a query may be of.

    Attributes:
        groups: base scenes.
        variants: further scenes of a group that no query asked for.
        queries: of a group.
        kinds: of the queries' edits, as often as they are listed.
        single: whether a query must have one target only.
        siblings: scenes that fit the same query, drawn beside its target; they differ in what the text leaves open.
        things: in a base scene, as often as they are listed.
        second: probability of a second edit in a query.
        paint: how scenes are drawn.
    """

    groups: int
    variants: int
    queries: int
    kinds: Sequence[str]
    single: bool
    siblings: int = 0
    things: Sequence[int] = (1, 2, 2, 3, 3)
    second: float = 0.2
    paint: Callable[[Scene], np.ndarray] = draw


@dataclass(frozen=True)
class _Asked:
    reference: str
    target: str
    text: str
    kinds: tuple[str, ...]
    patterns: tuple[Pattern, ...]


def _ask(rng: random.Random, base: Scene, plan: Plan) -> tuple[list[Edit], str] | None:
    """Draw one query's edits and text."""
    kind = rng.choice(list(plan.kinds))
    # Most draws of a colour or shape are of a trained pair and refused; without retries such kinds would be rare.
    edit = next((e for _ in range(40) if (e := random_edit(rng, base, kind, held_out=True)) is not None), None)
    if edit is None:
        return None
    edits = [edit]
    if rng.random() < plan.second:
        second = random_edit(rng, base, rng.choice(("background", "size", "position", "texture")))
        if second is None or second.kind == edit.kind or (edit.background and second.background):
            return None
        edits.append(second)
    return edits, modification(edits, base, rng, rng.choice(TYPED), held_out=True)


def _group(rng: random.Random, name: str, plan: Plan) -> tuple[dict[str, Scene], list[_Asked]]:
    base = random_scene(rng, held_out=1, things=rng.choice(list(plan.things)))
    scenes = {f"{name}-00": base}
    asked: list[_Asked] = []

    def place(scene: Scene | None) -> str | None:
        if scene is None or any(scene.same_as(other) for other in scenes.values()):
            return None
        image_id = f"{name}-{len(scenes):02d}"
        scenes[image_id] = scene
        return image_id

    while len(asked) < plan.queries:
        drawn = _ask(rng, base, plan)
        if drawn is None:
            continue
        edits, text = drawn
        read = read_modification(text)
        target_id = place(edited(rng, base, edits, held_out=True)) if read else None
        if read is None or target_id is None:
            continue
        patterns = tuple(apply_edits(base, read))
        asked.append(_Asked(f"{name}-00", target_id, text, tuple(edit.kind for edit in edits), patterns))
        for _ in range(plan.siblings):
            place(edited(rng, base, edits, held_out=True))
    wanted = len(scenes) + plan.variants
    while len(scenes) < wanted:
        drawn_edits = [
            random_edit(rng, base, rng.choice(KINDS), rng.random() < 0.5) for _ in range(rng.choice((1, 1, 2)))
        ]
        edits = [edit for edit in drawn_edits if edit is not None]
        place(edited(rng, base, edits, held_out=True))
    return scenes, asked


def _targets(one: _Asked, alike: Mapping[tuple[str, int], Sequence[tuple[str, Scene]]]) -> list[str]:
    """Every image, the reference left out, that the text can lead to; the drawn target first."""
    found = {one.target}
    for pattern in one.patterns:
        for background in pattern.background:
            for image_id, scene in alike[background, len(pattern.looks)]:
                if image_id != one.reference and pattern.matches(scene):
                    found.add(image_id)
    return [one.target, *sorted(found - {one.target})]


def make(name: str, split: str, plan: Plan, protocol: Mapping[str, str], metrics: Sequence[str]) -> Benchmark:
    """Make a benchmark; the same name and split always give the same one.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"{name} has the splits {', '.join(SPLITS)}, got {split!r}")
    rng = random.Random(f"{name}/{split}")
    scenes: dict[str, Scene] = {}
    asked: list[_Asked] = []
    for group in range(plan.groups):
        more, questions = _group(rng, f"{group:03d}", plan)
        scenes |= more
        asked += questions
    alike: dict[tuple[str, int], list[tuple[str, Scene]]] = defaultdict(list)
    for image_id, scene in scenes.items():
        alike[scene.background, len(scene.things)].append((image_id, scene))
    queries: list[Query] = []
    for one in asked:
        targets = _targets(one, alike)
        if plan.single and len(targets) > 1:
            continue
        queries.append(_query(len(queries), one, targets, scenes, plan))
    gallery = tuple(scenes)
    pictures = hashlib.sha256()
    for scene in scenes.values():
        pictures.update(plan.paint(scene).tobytes())
    asked_for = [[q.query_id, q.modification, *q.targets] for q in queries]
    facts = [name, split, dict(protocol), pictures.hexdigest(), asked_for]
    return Benchmark(
        name=name,
        split=split,
        gallery=gallery,
        queries=tuple(queries),
        protocol=protocol,
        metrics=tuple(metrics),
        source="drawn by the project itself (data/tiny_benchmarks.py)",
        licence="Apache-2.0",
        load_image=lambda image_id: Image.fromarray(plan.paint(scenes[image_id])),
        digest=digest(facts),
    )


def _query(number: int, one: _Asked, targets: Sequence[str], scenes: Mapping[str, Scene], plan: Plan) -> Query:
    subset: tuple[str, ...] = ()
    if plan.single:
        group = one.reference.split("-")[0]
        others = [i for i in scenes if i.startswith(f"{group}-") and i not in (one.reference, one.target)]
        nearest = sorted(others, key=lambda i: (scene_distance(scenes[one.target], scenes[i]), i))[: SUBSET - 1]
        subset = tuple(sorted([one.target, *nearest]))
    return Query(
        query_id=f"{number:04d}",
        reference_id=one.reference,
        modification=one.text,
        targets=tuple(targets),
        subset=subset,
        tags=one.kinds,
    )
