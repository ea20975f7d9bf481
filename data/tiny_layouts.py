"""The tiny world in the official on-disk layouts of FashionIQ, CIRR, CIRCO and GeneCIS.

What the real benchmarks' loaders, protocols and submission files do is so run from end to end, with images, where no
benchmark has been downloaded. Queries and truths are those of `tiny_single` and `tiny_multi`; GeneCIS' tasks, which
neither has, are drawn here. Their scores say nothing of the real benchmarks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from data.artifact import write_json
from data.benchmarks import Benchmark, Query, genecis, tiny_multi, tiny_single
from data.benchmarks.fashioniq import CATEGORIES
from data.tiny_drawing import draw
from data.tiny_edits import Pattern, apply_edits
from data.tiny_language import phrase
from data.tiny_random_edits import edited, random_edit
from data.tiny_world import Scene, random_scene

CANVAS = (180, 140)  # of a GeneCIS picture, in which the scene lies
# CIRCO's semantic aspects that the tiny world's kinds of edit come nearest to; two of the nine have none.
ASPECTS = {
    "colour": "compare_change",
    "shape": "compare_change",
    "size": "compare_change",
    "texture": "compare_change",
    "position": "spatial_relations_background",
    "background": "spatial_relations_background",
    "addition": "addition",
    "removal": "negation",
    "count": "cardinality",
    "negation": "negation",
}

Judge = Callable[[Scene], bool]


def write_layouts(root: Path, groups: int = 6, queries: int = 8) -> dict[str, Path]:
    """Write all four benchmarks, splits val and test.

    Args:
        root: folder for the four; made if it is not there.
        groups: groups of scenes taken from the tiny benchmarks, 1 to 130: about 21 images and 4 queries each.
        queries: of each GeneCIS task.

    Returns:
        The folder of each benchmark, by name.
    """
    for split in ("val", "test"):
        single = tiny_single.load(split)
        _fashioniq(root / "fashioniq", single, groups)
        _cirr(root / "cirr", single, groups)
    _circo(root / "circo", groups)
    _genecis(root / "genecis", queries)
    return {name: root / name for name in ("fashioniq", "cirr", "circo", "genecis")}


def _some(benchmark: Benchmark, groups: int) -> tuple[list[str], list[Query]]:
    """The images and queries of the first groups; ids begin with the number of their group."""
    images = [image for image in benchmark.gallery if int(image.split("-")[0]) < groups]
    known = frozenset(images)
    return images, [query for query in benchmark.queries if query.reference_id in known and query.targets[0] in known]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # JPEG at full quality: the tiny world's dots are two pixels wide.
    if path.suffix == ".jpg":
        image.save(path, quality=95, subsampling=0)
    else:
        image.save(path)


def _put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def _fashioniq(root: Path, benchmark: Benchmark, groups: int) -> None:
    split = benchmark.split
    images, queries = _some(benchmark, groups)
    for number, category in enumerate(CATEGORIES):
        mine = [image for image in images if int(image.split("-")[0]) % len(CATEGORIES) == number]
        names = {image: f"B{split[0].upper()}{image.replace('-', '')}" for image in mine}
        entries = []
        for query in queries:
            if query.reference_id in names:
                target = {"target": names[query.targets[0]]} if split == "val" else {}
                texts = [query.modification, "all else stays the same"]
                entries.append({**target, "candidate": names[query.reference_id], "captions": texts})
        _put(root / "captions" / f"cap.{category}.{split}.json", entries)
        _put(root / "image_splits" / f"split.{category}.{split}.json", list(names.values()))
        for image, name in names.items():
            # Users have either: the originals, or converted copies.
            _save(benchmark.load_image(image), root / "images" / f"{name}.{'jpg' if number else 'png'}")


def _cirr(root: Path, benchmark: Benchmark, groups: int) -> None:
    file, folder = {"val": ("val", "dev"), "test": ("test1", "test1")}[benchmark.split]
    images, queries = _some(benchmark, groups)
    names = {image: f"{folder}-{image}-img0" for image in images}
    entries = []
    for number, query in enumerate(queries):
        members = sorted([query.reference_id, *query.subset])
        entry: dict[str, object] = {
            "pairid": number,
            "reference": names[query.reference_id],
            "caption": query.modification,
            "img_set": {"id": number, "members": [names[member] for member in members]},
        }
        if benchmark.split == "val":
            target = names[query.targets[0]]
            entry |= {"target_hard": target, "target_soft": {target: 1.0}}
        entries.append(entry)
    _put(root / "captions" / f"cap.rc2.{file}.json", entries)
    files = {name: f"./{folder}/{name}.png" for name in names.values()}
    _put(root / "image_splits" / f"split.rc2.{file}.json", files)
    for image, name in names.items():
        _save(benchmark.load_image(image), root / "img_raw" / files[name])


def _circo(root: Path, groups: int) -> None:
    listed = []
    for offset, split in ((0, "val"), (100_000, "test")):
        benchmark = tiny_multi.load(split)
        images, queries = _some(benchmark, groups)
        numbers = {image: offset + 7 * place for place, image in enumerate(images)}
        entries = [_circo_entry(place, query, numbers, split) for place, query in enumerate(queries)]
        _put(root / "annotations" / f"{split}.json", entries)
        for image, number in numbers.items():
            listed.append({"id": number, "file_name": f"{number:012d}.jpg"})
            _save(benchmark.load_image(image), root / "COCO2017_unlabeled" / "unlabeled2017" / f"{number:012d}.jpg")
    _put(root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json", {"images": listed})


def _circo_entry(place: int, query: Query, numbers: Mapping[str, int], split: str) -> dict[str, object]:
    entry: dict[str, object] = {
        "id": place,
        "reference_img_id": numbers[query.reference_id],
        "relative_caption": query.modification,
        "shared_concept": "a scene of shapes",
    }
    if split == "val":
        aspects = ["statement_with_conjunction"] if len(query.tags) > 1 else []
        aspects += [ASPECTS[tag] for tag in query.tags]
        entry |= {
            "target_img_id": numbers[query.targets[0]],
            "gt_img_ids": [numbers[target] for target in query.targets if target in numbers],
            "semantic_aspects": list(dict.fromkeys(aspects)),
        }
    return entry


def _genecis(root: Path, queries: int) -> None:
    rng = random.Random("genecis")
    for task, rivals in genecis.TASKS.items():
        entries = []
        number = 1000 * (list(genecis.TASKS).index(task) + 1) ** 3
        for _ in range(queries):
            condition, reference, target, others = _question(rng, task, rivals)
            crops = []
            for scene in (reference, target, *others):
                crops.append(_picture(rng, root, task, number, scene))
                number += 1
            entries.append({"condition": condition, "reference": crops[0], "target": crops[1], "gallery": crops[2:]})
        _put(root / "genecis" / f"{task}.json", entries)


def _picture(rng: random.Random, root: Path, task: str, number: int, scene: Scene) -> dict[str, object]:
    """Save a scene as GeneCIS has it: a whole COCO picture, or a part of a Visual Genome one."""
    picture = Image.fromarray(draw(scene))
    if not task.endswith("attribute"):
        _save(picture, root / "val2017" / f"{number:012d}.jpg")
        return {"val_image_id": number}
    left, top = rng.randrange(1, CANVAS[0] - picture.width), rng.randrange(1, CANVAS[1] - picture.height)
    canvas = Image.new("RGB", CANVAS, (90, 90, 90))
    canvas.paste(picture, (left, top))
    _save(canvas, root / "VG_100K_all" / f"{number}.jpg")
    # The box that the authors' crop widens to exactly the scene: it grows by 0.7 of its size to the left and top.
    side = picture.width / (1 + genecis.DILATION)
    box = [left + genecis.DILATION * side, top + genecis.DILATION * side, side, side]
    return {"image_id": str(number), "instance_bbox": box}


def _question(rng: random.Random, task: str, rivals: int) -> tuple[str, Scene, Scene, list[Scene]]:
    """Condition, reference, the one scene that fits, and scenes that do not."""
    if task == "focus_attribute":
        reference = random_scene(rng)
        return "background", *_focus(rng, reference, lambda scene: scene.background == reference.background, rivals)
    if task == "focus_object":
        reference = random_scene(rng)
        shape = rng.choice(reference.things).shape
        return shape, *_focus(rng, reference, lambda scene: any(one.shape == shape for one in scene.things), rivals)
    kinds = ("colour", "size", "texture") if task == "change_attribute" else ("addition",)
    while True:
        reference = random_scene(rng)
        edit = random_edit(rng, reference, rng.choice(kinds))
        target = edited(rng, reference, [edit]) if edit else None
        if edit is None or target is None:
            continue
        patterns = apply_edits(reference, [edit])
        others = _change_rivals(rng, reference, patterns, rivals)
        return phrase(edit, reference, rng), reference, target, others


def _focus(rng: random.Random, reference: Scene, fits: Judge, rivals: int) -> tuple[Scene, Scene, list[Scene]]:
    others: list[Scene] = []
    target: Scene | None = None
    while target is None or len(others) < rivals:
        scene = random_scene(rng)
        if not fits(scene):
            others.append(scene)
        elif not scene.same_as(reference):
            target = target or scene
    return reference, target, others[:rivals]


def _change_rivals(rng: random.Random, reference: Scene, wanted: Sequence[Pattern], rivals: int) -> list[Scene]:
    """Half edits of the reference, half other scenes; none does what the condition says."""
    others: list[Scene] = []
    while len(others) < rivals:
        scene: Scene | None = random_scene(rng)
        if len(others) % 2:
            edit = random_edit(rng, reference, rng.choice(("colour", "position", "background", "size")))
            scene = edited(rng, reference, [edit]) if edit else None
        if scene is not None and not any(pattern.matches(scene) for pattern in wanted):
            others.append(scene)
    return others
