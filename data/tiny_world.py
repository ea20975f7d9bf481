"""The tiny world: scenes of shapes that can be drawn, described, edited and compared exactly.

A scene is a background and one to three things on a 3 x 3 grid. Everything is deterministic from a seed, so that any
number of images, their captions, the edits between them and the true answers of a query exist without a file being
shipped. Some pairs of shape and colour (`HELD_OUT`) appear in benchmarks only: no training image or text contains them.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
COLOURS = {
    "red": (214, 28, 36),
    "orange": (255, 138, 0),
    "yellow": (250, 222, 30),
    "green": (30, 150, 50),
    "cyan": (40, 205, 225),
    "blue": (30, 60, 215),
    "purple": (140, 40, 170),
}
SIZES = {"small": 16, "large": 28}  # side in pixels
TEXTURES = ("plain", "striped", "dotted")
POSITIONS = (
    "top left", "top center", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (18, 18, 18),
    "gray": (140, 140, 140),
    "brown": (110, 70, 35),
    "pink": (255, 190, 205),
}
DOMAIN: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "position": POSITIONS,
}
HELD_OUT = frozenset(
    {
        ("circle", "purple"), ("square", "cyan"), ("triangle", "orange"), ("star", "blue"),
        ("cross", "yellow"), ("diamond", "red"), ("ring", "green"), ("heart", "cyan"),
    }
)  # fmt: skip
IMAGE_SIZE = 96
MAX_THINGS = 3
FAMILY = 160  # images of a pool that are edits of one prototype, so that a rank window of [51, 60] lies inside a family
# A thing left without a partner costs more than half of the five attributes two partners can differ in: things that
# differ in so many are no partners.
UNMATCHED = 3


@dataclass(frozen=True)
class Thing:
    """One drawn thing; every field is a key of `DOMAIN`."""

    position: str
    shape: str
    colour: str
    size: str
    texture: str


@dataclass(frozen=True)
class Scene:
    """A picture's content; its things are kept in reading order.

    `jitter` moves pixels, never the meaning: two scenes mean the same when `same_as` says so.
    """

    background: str
    things: tuple[Thing, ...]
    jitter: int = 0

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.things, key=lambda thing: POSITIONS.index(thing.position)))
        object.__setattr__(self, "things", ordered)

    def same_as(self, other: Scene) -> bool:
        return self.background == other.background and self.things == other.things


def is_held_out(thing: Thing) -> bool:
    return (thing.shape, thing.colour) in HELD_OUT


def random_thing(rng: random.Random, free: Sequence[str], held_out: bool = False) -> Thing:
    """Draw one thing at one of the `free` positions; with `held_out` its shape and colour are a pair never trained
    on."""
    while True:
        shape, colour = rng.choice(SHAPES), rng.choice(DOMAIN["colour"])
        if ((shape, colour) in HELD_OUT) == held_out:
            break
    return Thing(rng.choice(list(free)), shape, colour, rng.choice(DOMAIN["size"]), rng.choice(TEXTURES))


def free_positions(scene: Scene) -> list[str]:
    taken = {thing.position for thing in scene.things}
    return [position for position in POSITIONS if position not in taken]


def random_scene(rng: random.Random, held_out: int = 0, things: int | None = None) -> Scene:
    """Draw a scene of `things` things (else one to three), `held_out` of them of a shape-colour pair never trained on.

    No two things of a drawn scene share shape and colour, so that "the red circle" names one of them.
    """
    count = things or rng.choices((1, 2, 3), (2, 4, 4))[0]
    scene = Scene(rng.choice(list(BACKGROUNDS)), (), rng.getrandbits(30))
    while len(scene.things) < count:
        thing = random_thing(rng, free_positions(scene), held_out=len(scene.things) < held_out)
        if all((thing.shape, thing.colour) != (other.shape, other.colour) for other in scene.things):
            scene = replace(scene, things=(*scene.things, thing))
    return scene


# --- Edits and their exact meaning ---

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


# --- Pools of images ---


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


# --- Drawing ---

SCALE = 4  # supersampling


def _outline(shape: str, side: int) -> list[tuple[float, float]]:
    """Corners of a shape in a square of `side`, for the shapes that are polygons."""
    points: dict[str, list[tuple[float, float]]] = {
        "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
        "triangle": [(0.5, 0.02), (0.99, 0.96), (0.01, 0.96)],
        "diamond": [(0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5)],
        "cross": [
            (0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67),
            (0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33),
        ],
    }  # fmt: skip
    if shape == "star":
        corners = []
        for i in range(10):
            radius, angle = (0.53 if i % 2 == 0 else 0.22), np.pi * i / 5 - np.pi / 2
            corners.append((0.5 + radius * np.cos(angle), 0.53 + radius * np.sin(angle)))
        points["star"] = corners
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        x = 0.5 + 0.5 * np.sin(t) ** 3
        y = 0.45 - (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 30
        points["heart"] = list(zip(x.tolist(), y.tolist(), strict=True))
    return [(px * side, py * side) for px, py in points[shape]]


@cache
def sprite(shape: str, colour: str, size: str, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw a thing once.

    Returns:
        Its pixels (side, side, 3) float32 in 0..255 and its coverage (side, side, 1) in 0..1.
    """
    side = SIZES[size]
    big = side * SCALE
    mask = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        pen.ellipse((0, 0, big - 1, big - 1), fill=255)
        if shape == "ring":
            hole = big * 0.3
            pen.ellipse((hole, hole, big - 1 - hole, big - 1 - hole), fill=0)
    else:
        pen.polygon(_outline(shape, big - 1), fill=255)
    base = np.array(COLOURS[colour], dtype=np.float32)
    pixels = np.broadcast_to(base, (big, big, 3)).copy()
    y, x = np.mgrid[0:big, 0:big] / SCALE
    period = 6.0 if size == "large" else 5.0
    dark = base * 0.3 + 25  # off black, so that a pattern does not eat the outline on a black background
    if texture == "striped":
        pixels[(y % period) < period * 0.45] = dark
    elif texture == "dotted":
        middle = (period - 1 / SCALE) / 2
        pixels[(x % period - middle) ** 2 + (y % period - middle) ** 2 < (period * 0.3) ** 2] = dark
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    coverage = mask.resize((side, side), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32), np.asarray(coverage, dtype=np.float32)[..., None] / 255


def draw(scene: Scene) -> np.ndarray:
    """Draw a scene as (96, 96, 3) uint8; things wander up to 2 pixels from the middle of their cell by
    `scene.jitter`."""
    canvas = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32)
    rng = random.Random(scene.jitter)
    canvas[:] = np.array(BACKGROUNDS[scene.background], dtype=np.float32) + rng.uniform(-4, 4)
    cell = IMAGE_SIZE // 3
    for thing in scene.things:
        pixels, coverage = sprite(thing.shape, thing.colour, thing.size, thing.texture)
        row, column = divmod(POSITIONS.index(thing.position), 3)
        side = pixels.shape[0]
        top = row * cell + (cell - side) // 2 + rng.randint(-2, 2)
        left = column * cell + (cell - side) // 2 + rng.randint(-2, 2)
        window = canvas[top : top + side, left : left + side]
        window[:] = window * (1 - coverage) + pixels * coverage
    return canvas.clip(0, 255).astype(np.uint8)


def png(scene: Scene) -> bytes:
    """Encode a drawn scene as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(draw(scene)).save(buffer, format="PNG")
    return buffer.getvalue()
