"""Edits of the tiny world drawn at random, the scenes that they lead to, and pools of images that resemble."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from data.tiny_edits import KINDS, Edit, InapplicableError, Pattern, apply_edits, look, look_of
from data.tiny_world import (
    BACKGROUNDS,
    DOMAIN,
    FAMILY,
    MAX_THINGS,
    POSITIONS,
    Scene,
    Thing,
    free_positions,
    is_held_out,
    random_scene,
    random_thing,
)


def random_edit(rng: random.Random, scene: Scene, kind: str, held_out: bool = False) -> Edit | None:
    """Draw an edit of `kind` that applies to `scene`, or None where none does.

    With `held_out` the thing that it leaves behind, takes away or starts from is a shape-colour pair never trained on
    (background and negation of it excepted, which have no thing); without it, no such pair comes about.
    """
    if kind == "background" or (kind == "negation" and rng.random() < 0.3):
        others = frozenset(BACKGROUNDS) - {scene.background}
        return Edit(kind, background=others if kind == "negation" else frozenset({rng.choice(sorted(others))}))
    free = free_positions(scene)
    if kind == "addition":
        if len(scene.things) >= MAX_THINGS:
            return None
        thing = random_thing(rng, free, held_out)
        if any((thing.shape, thing.colour) == (t.shape, t.colour) for t in scene.things):
            return None
        named = tuple(DOMAIN) if rng.random() < 0.75 else ("shape", "colour")
        return Edit(kind, added=look_of(thing, *named))
    thing = rng.choice(scene.things)
    if kind == "removal":
        usable = len(scene.things) >= 2 and (is_held_out(thing) or not held_out)
        return Edit(kind, look_of(thing)) if usable else None
    if kind == "count":
        alike = sum((t.shape, t.colour) == (thing.shape, thing.colour) for t in scene.things)
        most = MAX_THINGS - len(scene.things) + alike
        if alike != 1 or most < 2 or (held_out and not is_held_out(thing)):
            return None
        return Edit(kind, look_of(thing), count=rng.randint(2, most))
    name = rng.choice(("colour", "shape")) if kind == "negation" else kind
    others = frozenset(DOMAIN[name]) - {getattr(thing, name)}
    if name == "position":
        others &= frozenset(free)
    if kind == "negation":
        return Edit(kind, look_of(thing), look(**{name: others}))
    new = replace(thing, **{name: rng.choice(sorted(others))})
    if name in ("shape", "colour"):
        if is_held_out(new) != held_out or any((new.shape, new.colour) == (t.shape, t.colour) for t in scene.things):
            return None
    elif held_out and not is_held_out(thing):
        return None
    return Edit(kind, look_of(thing), look(**{name: getattr(new, name)}))


def draw_scene(rng: random.Random, pattern: Pattern, held_out: bool = False) -> Scene | None:
    """Draw a scene that fits `pattern`, free attributes at random; None where its things cannot all stand somewhere.

    Without `held_out` no free attribute makes a shape-colour pair never trained on.
    """
    things: list[Thing] = []
    fixed_first = sorted(pattern.looks, key=lambda description: len(dict(description).get("position", POSITIONS)))
    for description in fixed_first:
        taken = {thing.position for thing in things}
        allowed = {name: sorted(dict(description).get(name, DOMAIN[name])) for name in DOMAIN}
        allowed["position"] = [p for p in allowed["position"] if p not in taken]
        if not allowed["position"]:
            return None
        for _ in range(50):
            thing = Thing(*(rng.choice(allowed[name]) for name in ("position", "shape", "colour", "size", "texture")))
            if held_out or not is_held_out(thing) or (len(allowed["shape"]) == len(allowed["colour"]) == 1):
                break
        things.append(thing)
    return Scene(rng.choice(sorted(pattern.background)), tuple(things), rng.getrandbits(30))


def edited(rng: random.Random, scene: Scene, edits: Sequence[Edit], held_out: bool = False) -> Scene | None:
    """Draw one scene that all `edits` lead to; None where they cannot be made together or two things would look
    alike."""
    try:
        patterns = apply_edits(scene, edits)
    except InapplicableError:
        return None
    result = draw_scene(rng, rng.choice(patterns), held_out)
    if result is None or len(result.things) > MAX_THINGS or not result.things:
        return None
    return result


def _clash(a: Edit, b: Edit) -> bool:
    """Say whether two edits of one scene speak of the same attribute, or of a thing that one of them takes away."""
    if "count" in (a.kind, b.kind):
        return True
    if a.background is not None and b.background is not None:
        return True
    if a.source is None or a.source != b.source:
        return False
    return "removal" in (a.kind, b.kind) or dict(a.change).keys() == dict(b.change).keys()


def random_edits(rng: random.Random, scene: Scene, count: int, kinds: Sequence[str] = KINDS) -> list[Edit]:
    """Draw `count` edits of different things or attributes of `scene`, fewer where no more apply."""
    edits: list[Edit] = []
    for _ in range(20 * count):
        if len(edits) == count:
            break
        edit = random_edit(rng, scene, rng.choice(list(kinds)))
        if edit is None:
            continue
        same = any(_clash(edit, other) for other in edits)
        if not same and edited(random.Random(0), scene, [*edits, edit]) is not None:
            edits.append(edit)
    return edits


def pool_scene(index: int, seed: int = 0) -> Scene:
    """Give image `index` of the pool of `seed`: families of `FAMILY` images, each one or two edits away from a
    prototype.

    Image i is the same in a pool of any size. No shape-colour pair of `HELD_OUT` appears.
    """
    family, member = divmod(index, FAMILY)
    prototype = random_scene(random.Random(f"tiny-world/{seed}/{family}"))
    if member == 0:
        return prototype
    rng = random.Random(f"tiny-world/{seed}/{family}/{member}")
    plain_kinds = [kind for kind in KINDS if kind != "negation"]
    while True:
        edits = random_edits(rng, prototype, 1 + (rng.random() < 0.25), plain_kinds)
        scene = edited(rng, prototype, edits)
        if scene is not None and not any(is_held_out(thing) for thing in scene.things):
            return scene


def pool(images: int, seed: int = 0) -> Iterator[Scene]:
    """Yield the first `images` scenes of the pool of `seed`."""
    return (pool_scene(index, seed) for index in range(images))
