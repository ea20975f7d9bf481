"""Edits of the tiny world's scenes and their exact meaning: what they lead to, whether they hold, what differs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from data.tiny_world import DOMAIN, Scene, Thing

# A thing left without a partner costs more than half of the five attributes two partners can differ in: things that
# differ in so many are no partners.
UNMATCHED = 3

Allowed = frozenset[str]
Look = tuple[
    tuple[str, Allowed], ...
]  # attribute -> values it may have, in the order of DOMAIN; an absent attribute is free


def look(**allowed: str | Allowed) -> Look:
    """Describe a thing: `look(shape="circle", colour="red")` is any red circle."""
    return tuple((k, frozenset({v}) if isinstance(v, str) else v) for k in DOMAIN if (v := allowed.get(k)) is not None)


def look_of(thing: Thing, *attributes: str) -> Look:
    """Describe `thing` by the named attributes, by all of them without any."""
    return look(**{name: getattr(thing, name) for name in attributes or tuple(DOMAIN)})


def fits(description: Look, thing: Thing) -> bool:
    return all(getattr(thing, name) in allowed for name, allowed in description)


KINDS = (
    "colour", "shape", "size", "texture", "position", "background", "addition", "removal", "count", "negation",
)  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """One change.

    Attributes:
        kind: one of `KINDS`.
        source: the thing of the reference that it is about; None for background and addition.
        change: attribute -> values allowed afterwards (colour, shape, size, texture, position, negation).
        added: the new thing (addition).
        background: backgrounds allowed afterwards (background, negation).
        count: how many of `source` there are afterwards, wherever they stand (count).
    """

    kind: str
    source: Look | None = None
    change: Look = ()
    added: Look | None = None
    background: Allowed | None = None
    count: int | None = None


@dataclass(frozen=True)
class Pattern:
    """A set of scenes: what an edited reference may look like."""

    background: Allowed
    looks: tuple[Look, ...]

    def distance(self, scene: Scene) -> int:
        """Count what must change in `scene` to fit: 0 is a fit; a thing missing or too many costs `UNMATCHED`."""
        wrong_background = int(scene.background not in self.background)
        longer, shorter = max(len(self.looks), len(scene.things)), min(len(self.looks), len(scene.things))
        costs = [
            [sum(getattr(thing, name) not in allowed for name, allowed in description) for thing in scene.things]
            for description in self.looks
        ]
        if len(self.looks) <= len(scene.things):
            best = min(
                sum(costs[i][j] for i, j in enumerate(chosen))
                for chosen in itertools.permutations(range(len(scene.things)), shorter)
            )
        else:
            best = min(
                sum(costs[i][j] for j, i in enumerate(chosen))
                for chosen in itertools.permutations(range(len(self.looks)), shorter)
            )
        return wrong_background + best + UNMATCHED * (longer - shorter)

    def matches(self, scene: Scene) -> bool:
        """Say whether `scene` fits: its distance is 0, found without counting."""
        if scene.background not in self.background or len(scene.things) != len(self.looks):
            return False
        return any(all(map(fits, self.looks, order)) for order in itertools.permutations(scene.things))


class InapplicableError(ValueError):
    """An edit that means nothing for a scene: its source is not there, or nothing would change."""


def exactly(scene: Scene) -> Pattern:
    return Pattern(frozenset({scene.background}), tuple(look_of(thing) for thing in scene.things))


def scene_distance(a: Scene, b: Scene) -> int:
    return exactly(a).distance(b)


def _refuse_no_change(thing: Thing, change: Look) -> None:
    for name, allowed in change:
        if allowed == {getattr(thing, name)}:
            raise InapplicableError(f"the {name} is already {getattr(thing, name)}")


def apply_edits(scene: Scene, edits: Sequence[Edit]) -> list[Pattern]:
    """Say what `scene` may look like after all `edits`, whose sources all name things of the unedited scene.

    Returns:
        One pattern for each way to understand the sources; more than one only where a source fits several things.

    Raises:
        InapplicableError: a source fits nothing, an edit changes nothing, or no thing is left.
    """
    options: list[list[int]] = []
    for edit in edits:
        fitting = [i for i, t in enumerate(scene.things) if edit.source is not None and fits(edit.source, t)]
        if edit.source is not None and not fitting:
            raise InapplicableError("nothing in the scene fits the description")
        options.append(fitting or [-1])
    patterns: list[Pattern] = []
    for choice in itertools.product(*options):
        pattern = _apply_once(scene, edits, choice)
        if pattern not in patterns:
            patterns.append(pattern)
    return patterns


def _apply_once(scene: Scene, edits: Sequence[Edit], choice: Sequence[int]) -> Pattern:
    background: Allowed = frozenset({scene.background})
    looks: dict[int, Look] = {i: look_of(thing) for i, thing in enumerate(scene.things)}
    new: list[Look] = []
    for edit, i in zip(edits, choice, strict=True):
        if edit.background is not None:
            if edit.background == {scene.background}:
                raise InapplicableError(f"the background is already {scene.background}")
            background = edit.background
        elif edit.added is not None:
            new.append(edit.added)
        elif edit.count is not None:
            thing = scene.things[i]
            alike = sum(look_of(t, "shape", "colour") == look_of(thing, "shape", "colour") for t in scene.things)
            if edit.count <= alike:
                raise InapplicableError(f"there are already {alike} of it")
            new += [look_of(thing, "shape", "colour", "size", "texture")] * (edit.count - alike)
        elif edit.kind == "removal":
            looks.pop(i, None)
        else:
            if i not in looks:
                raise InapplicableError("it was removed")
            _refuse_no_change(scene.things[i], edit.change)
            looks[i] = look(**(dict(looks[i]) | dict(edit.change)))
    if not looks and not new:
        raise InapplicableError("nothing would be left")
    return Pattern(background, (*looks.values(), *new))


def holds(edit: Edit, reference: Scene, target: Scene) -> bool:
    """Say whether a stated change is true of a pair: made alone, it brings the reference nearer to the target."""
    try:
        patterns = apply_edits(reference, [edit])
    except InapplicableError:
        return False
    return min(pattern.distance(target) for pattern in patterns) < scene_distance(reference, target)


def _changed(x: Thing | None, y: Thing | None) -> int:
    if x is None or y is None:
        return UNMATCHED if x is not y else 0
    return sum(getattr(x, name) != getattr(y, name) for name in DOMAIN)


def paired(reference: Scene, target: Scene) -> list[tuple[Thing | None, Thing | None]]:
    """Pair the things of two scenes so that the least changes: (old, new), in the order of the reference, None for
    no partner.

    Things that differ in three attributes or more are no pair.
    """
    a, b = reference.things, target.things
    size = max(len(a), len(b))
    padded_a, padded_b = [*a, *[None] * (size - len(a))], [*b, *[None] * (size - len(b))]
    order = min(
        itertools.permutations(padded_b), key=lambda p: sum(_changed(x, y) for x, y in zip(padded_a, p, strict=True))
    )
    pairs = list(zip(padded_a, order, strict=True))
    result: list[tuple[Thing | None, Thing | None]] = []
    for x, y in pairs:
        near = _changed(x, y) < UNMATCHED
        result += [(x, y)] if near else [(x, None)] if x else []
    return [*result, *((None, y) for x, y in pairs if y is not None and _changed(x, y) >= UNMATCHED)]


def difference(reference: Scene, target: Scene) -> list[Edit]:
    """List the changes that lead from `reference` to `target`: at most one per attribute of `paired` things, then
    removals and additions."""
    edits: list[Edit] = []
    removed: list[Edit] = []
    added: list[Edit] = []
    for x, y in paired(reference, target):
        if x is None and y is not None:
            added.append(Edit("addition", added=look_of(y)))
        elif x is not None and y is None:
            removed.append(Edit("removal", look_of(x)))
        elif x is not None and y is not None:
            for name in DOMAIN:
                if getattr(x, name) != getattr(y, name):
                    edits.append(Edit(name, look_of(x), look(**{name: getattr(y, name)})))
    if reference.background != target.background:
        edits.append(Edit("background", background=frozenset({target.background})))
    return [*edits, *removed, *added]
