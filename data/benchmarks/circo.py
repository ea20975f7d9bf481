"""CIRCO: several ground truths per query in COCO's 123,403 unlabelled images; val scored here, test by the server.

mAP@k has the denominator min(k, ground truths); recall@k counts the one image the text was written for. The reference
stays in the gallery. Nine semantic aspects have an mAP@10 of their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import BaseModel, TypeAdapter

from data.annotations import Annotations, Scoring, as_benchmark, choose, one_split
from data.benchmarks import Benchmark, Query
from data.images import load_rgb
from data.layouts import BrokenAnnotations, ImageFiles, WrongRoot, find_folder, read_as, refuse_repeats

SOURCE = "https://github.com/miccunifi/CIRCO; images: COCO unlabeled2017, https://cocodataset.org/#download"
LICENCE = "CC BY-NC 4.0 (annotations); the images are Flickr's, under their own terms"
SPLITS = ("val", "test")
CUTS = (5, 10, 25, 50)
ASPECTS = (
    "cardinality",
    "addition",
    "negation",
    "direct_addressing",
    "compare_change",
    "comparative_statement",
    "statement_with_conjunction",
    "spatial_relations_background",
    "viewpoint",
)
METRICS = (
    *(f"map@{k}" for k in CUTS),
    *(f"recall@{k}" for k in CUTS),
    *(f"{aspect}/map@10" for aspect in ASPECTS),
)
PLACES = ("", "circo", "CIRCO")
IMAGE_INFO = (
    "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
    "annotations/image_info_unlabeled2017.json",
    "image_info_unlabeled2017.json",
)
IMAGE_PLACES = ("COCO2017_unlabeled/unlabeled2017", "unlabeled2017", "images", "")


class CircoScoring(Scoring):
    """No choices beside the common ones."""


class CircoProtocol(CircoScoring):
    """`text`: the relative caption alone, or MagicLens' "find <shared concept> but <relative caption>".

    The second uses an annotation that other methods do not see, and is not comparable with them.
    """

    text: Literal["relative", "shared"] = "relative"


SCORING = CircoScoring
PROTOCOL = CircoProtocol


class _Entry(BaseModel):
    id: int
    reference_img_id: int
    relative_caption: str
    shared_concept: str
    target_img_id: int | None = None
    gt_img_ids: list[int] = []
    semantic_aspects: list[str] = []


class _Image(BaseModel):
    id: int
    file_name: str


class _ImageInfo(BaseModel):
    images: list[_Image]


_ENTRIES = TypeAdapter(list[_Entry])
_IMAGE_INFO = TypeAdapter(_ImageInfo)


def read(
    split: str, root: Path, protocol: CircoScoring | None = None, gallery: Sequence[str] | None = None
) -> Annotations:
    """Queries and, where it is known, the gallery.

    Args:
        split: val, or test, which has no targets and therefore no metrics.
        root: a folder with `annotations/`, or its parent.
        protocol: `CircoScoring` or `CircoProtocol`; their defaults without it.
        gallery: image ids in order; without it COCO's list of images, or none where that file is absent.

    Raises:
        WrongRoot, BrokenAnnotations: name what is missing or broken.
    """
    one_split("circo", split, SPLITS)
    chosen = protocol or CircoProtocol()
    path = _annotations(split, root)
    entries = read_as(path, _ENTRIES)
    refuse_repeats(path, "id", (str(entry.id) for entry in entries))
    if split == "val":
        _refuse_unlabelled(path, entries)
    if gallery is None:
        info = _image_info(path.parents[1], root)
        gallery = [str(image.id) for image in info] if info else None
    return Annotations(
        name="circo",
        split=split,
        queries=tuple(_query(entry, chosen) for entry in entries),
        galleries={} if gallery is None else {"": tuple(gallery)},
        protocol=chosen,
        metrics=METRICS if split == "val" else (),
        averages={},
        official="gallery_order",
    )


def load(split: str = "val", *, root: str | Path, **protocol: object) -> Benchmark:
    """The benchmark with its images.

    Raises:
        WrongRoot: also when COCO's list of images, which is the gallery, is not there.
    """
    place = Path(root)
    annotations = read(split, place, choose("circo", CircoProtocol, protocol))
    folder = _annotations(split, place).parents[1]
    info = _image_info(folder, place)
    if not info:
        raise WrongRoot(
            f"{folder} has CIRCO's annotations but not COCO's list of images, which is the gallery: expected"
            f" {IMAGE_INFO[0]}. Unpack image_info_unlabeled2017.zip of https://cocodataset.org/#download into"
            f" {folder / 'COCO2017_unlabeled'}"
        )
    names = {str(image.id): image.file_name for image in info}
    files = ImageFiles((folder, place), IMAGE_PLACES)

    def load_image(image_id: str) -> Image.Image:
        return load_rgb(files.locate(names[image_id]))

    return as_benchmark(
        annotations,
        source=SOURCE,
        licence=LICENCE,
        load_image=load_image,
        images=files.fingerprint(names[image] for image in annotations.needed if image in names),
    )


def _annotations(split: str, root: Path) -> Path:
    name = f"annotations/{split}.json"
    return find_folder(root, PLACES, (name,), f"annotations of {SOURCE}") / name


def _image_info(folder: Path, root: Path) -> list[_Image]:
    """COCO's list of images, or nothing where there is no such file."""
    for place in (folder, root):
        for name in IMAGE_INFO:
            if (place / name).is_file():
                images = read_as(place / name, _IMAGE_INFO).images
                refuse_repeats(place / name, "image", (str(image.id) for image in images))
                return images
    return []


def _refuse_unlabelled(path: Path, entries: list[_Entry]) -> None:
    for entry in entries:
        if entry.target_img_id is None or entry.target_img_id not in entry.gt_img_ids:
            raise BrokenAnnotations(
                f"{path}: query {entry.id}: target_img_id is {entry.target_img_id!r}; want one of gt_img_ids"
            )
        if len(set(entry.gt_img_ids)) < len(entry.gt_img_ids) or entry.reference_img_id in entry.gt_img_ids:
            raise BrokenAnnotations(f"{path}: query {entry.id}: gt_img_ids repeat an image or name the reference")


def _query(entry: _Entry, protocol: CircoScoring) -> Query:
    text = entry.relative_caption
    if isinstance(protocol, CircoProtocol) and protocol.text == "shared":
        text = f"find {entry.shared_concept} but {text}"
    # The main target comes first: it is the one that recall counts.
    others = (image for image in entry.gt_img_ids if image != entry.target_img_id)
    targets = () if entry.target_img_id is None else (entry.target_img_id, *others)
    return Query(
        query_id=str(entry.id),
        reference_id=str(entry.reference_img_id),
        modification=text,
        targets=tuple(map(str, targets)),
        tags=tuple(entry.semantic_aspects),
    )
