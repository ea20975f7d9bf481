"""GeneCIS: four tasks that focus on or change an attribute or an object, each query with a small gallery of its own.

A ranking orders the target (position 0) and its 9 or 14 rivals. The evaluator lets the target win every tie, so that a
dead encoder reaches 100 %: constant scores are refused in scoring. There is one split, called val here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from pydantic import BaseModel, Field, TypeAdapter

from data.annotations import Annotations, Scoring, as_benchmark, choose, one_split
from data.benchmarks import Benchmark, Query
from data.images import BadImage, load_rgb
from data.layouts import BrokenAnnotations, ImageFiles, find_folder, read_as

SOURCE = "https://github.com/facebookresearch/genecis; images: Visual Genome 1.2 and COCO val2017"
LICENCE = "CC BY-NC 4.0 (annotations); the images under the terms of Visual Genome and Flickr"
SPLITS = ("val",)
# Rivals of the target, by task.
TASKS = {"focus_attribute": 9, "change_attribute": 14, "focus_object": 14, "change_object": 14}
CUTS = (1, 2, 3)
METRICS = tuple(f"{task}/recall@{k}" for task in TASKS for k in CUTS)
AVERAGES = {f"average/recall@{k}": tuple(f"{task}/recall@{k}" for task in TASKS) for k in CUTS}
PLACES = ("", "genecis", "GeneCIS", "genecis/genecis")
IMAGE_PLACES = (
    "VG_100K_all", "VG_100K", "VG_100K_2", "visual_genome/VG_100K_all", "val2017", "coco/val2017", "coco2017/val2017",
)  # fmt: skip
# Share of its width (height) by which a box grows to the left (top).
DILATION = 0.7

Box = tuple[float, float, float, float]
# A template around nothing would ask for nothing.
Condition = Annotated[str, Field(pattern=r"\S")]


class GeneCisScoring(Scoring):
    """`reference=mask` takes gallery crops out that equal the query's reference (79 queries of change_attribute)."""


class GeneCisProtocol(GeneCisScoring):
    """`text`: the task's template with the condition in it, or the bare condition."""

    text: Literal["template", "condition"] = "template"


SCORING = GeneCisScoring
PROTOCOL = GeneCisProtocol


class _Crop(BaseModel):
    image_id: str | None = None
    val_image_id: int | None = None
    instance_bbox: Box | None = None

    def name(self) -> str:
        """Our id: `<Visual Genome id>@x,y,w,h`, or the name of COCO's file."""
        if self.image_id is not None and self.instance_bbox is not None:
            return f"{self.image_id}@{','.join(f'{edge:.17g}' for edge in self.instance_bbox)}"
        return f"{self.val_image_id:012d}"


class _Attribute(_Crop):
    image_id: str
    instance_bbox: Box


class _Object(_Crop):
    val_image_id: int


class _AttributeEntry(BaseModel):
    condition: Condition
    reference: _Attribute
    target: _Attribute
    gallery: list[_Attribute] = Field(min_length=1)


class _ObjectEntry(BaseModel):
    condition: Condition
    reference: _Object
    target: _Object
    gallery: list[_Object] = Field(min_length=1)


_ATTRIBUTES = TypeAdapter(list[_AttributeEntry])
_OBJECTS = TypeAdapter(list[_ObjectEntry])

Wording = Callable[[str, str], str]


def bare(task: str, condition: str) -> str:
    """The condition itself as the query's text."""
    return condition


def read(split: str, root: Path, protocol: GeneCisScoring | None = None, wording: Wording = bare) -> Annotations:
    """Queries of all four tasks, without images.

    Args:
        split: val.
        root: a folder with the four JSON files, or its parent.
        protocol: `GeneCisScoring` or `GeneCisProtocol`; their defaults without it.
        wording: text of a query from task and condition (the templates in `prompts/genecis`).

    Raises:
        WrongRoot, BrokenAnnotations: name what is missing or broken.
    """
    one_split("genecis", split, SPLITS)
    folder = find_folder(root, PLACES, [f"{task}.json" for task in TASKS], f"the folder genecis of {SOURCE}")
    queries: list[Query] = []
    galleries: dict[str, tuple[str, ...]] = {}
    for task in TASKS:
        found = _task(folder / f"{task}.json", task, wording)
        galleries[task] = tuple(dict.fromkeys(image for query in found for image in query.candidates))
        queries += found
    return Annotations(
        name="genecis",
        split=split,
        queries=tuple(queries),
        galleries=galleries,
        protocol=protocol or GeneCisProtocol(),
        metrics=METRICS,
        averages=AVERAGES,
        official="target_first",
    )


def load(split: str = "val", *, root: str | Path, wording: Wording = bare, **protocol: object) -> Benchmark:
    """The benchmark with its images: `VG_100K_all/<id>.jpg` (or its two parts) and `val2017/<12 digits>.jpg`."""
    place = Path(root)
    annotations = read(split, place, choose("genecis", GeneCisProtocol, protocol), wording)
    # Users keep the image folders beside the annotations or one level up.
    files = ImageFiles([base for below in PLACES for base in (place / below, (place / below).parent)], IMAGE_PLACES)

    def load_image(image_id: str) -> Image.Image:
        name, _, box = image_id.partition("@")
        path = files.locate(f"{name}.jpg")
        if not box:
            return load_rgb(path)
        x, y, width, height = map(float, box.split(","))
        return _open_crop(path, (x, y, width, height))

    names = dict.fromkeys(f"{image.partition('@')[0]}.jpg" for image in annotations.needed)
    return as_benchmark(
        annotations, source=SOURCE, licence=LICENCE, load_image=load_image, images=files.fingerprint(names)
    )


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The square around a box, as the authors cut it.

    A box grows by 0.7 of its size to the left and to the top and keeps its right and bottom edge, unless the left (top)
    edge meets the image's: then it is 1.7 times as wide (high) from there. The rest of the square is black, the crop
    in its middle.

    Args:
        image: as stored, of any size.
        box: left, top, width, height in pixels; left and top may be slightly negative.

    Raises:
        BadImage: if nothing of it lies in the image, which is then a smaller copy of the authors'.
    """
    x, y, width, height = box
    left, top = max(0.0, x - DILATION * width), max(0.0, y - DILATION * height)
    right = min(float(image.width), left + (1 + DILATION) * width)
    bottom = min(float(image.height), top + (1 + DILATION) * height)
    if round(left) >= round(right) or round(top) >= round(bottom):
        told = f"{image.width} x {image.height} pixels, and the box {x:g}, {y:g}, {width:g}, {height:g} lies outside"
        raise BadImage("too_small", f"{told}; want the picture in its authors' size")
    cut = image.crop((left, top, right, bottom))  # Pillow rounds fractions itself
    side = max(cut.size)
    square = Image.new(cut.mode, (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


def _open_crop(path: Path, box: Box) -> Image.Image:
    # Boxes count pixels of the picture as stored, so EXIF orientation is not applied here; and a crop may be smaller
    # than the smallest picture that `load_rgb` lets pass.
    try:
        with Image.open(path) as image:
            return crop(image.convert("RGB"), box)
    except Exception:
        load_rgb(path)  # names the reason
        raise


def _entries(path: Path, task: str) -> Sequence[_AttributeEntry | _ObjectEntry]:
    if task.endswith("attribute"):
        attributes = read_as(path, _ATTRIBUTES)
        return attributes
    objects = read_as(path, _OBJECTS)
    return objects


def _task(path: Path, task: str, wording: Wording) -> list[Query]:
    entries = _entries(path, task)
    for index, entry in enumerate(entries):
        if len(entry.gallery) != TASKS[task]:
            raise BrokenAnnotations(f"{path}: entry {index} has {len(entry.gallery)} gallery items, want {TASKS[task]}")
    return [
        Query(
            query_id=f"{task}/{index}",
            reference_id=entry.reference.name(),
            modification=wording(task, entry.condition),
            targets=(entry.target.name(),),
            tags=(task, entry.condition),
            candidates=(entry.target.name(), *(item.name() for item in entry.gallery)),
        )
        for index, entry in enumerate(entries)
    ]
