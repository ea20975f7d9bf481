"""FashionIQ: three categories of clothes, two captions per query; val scored per category, test without labels.

Galleries, joining rules and metrics as measured from the official files and the evaluators that published numbers use:
each category ranks its own split, the reference stays in it, and of equal scores the target wins.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import BaseModel, Field, TypeAdapter

from data.annotations import Annotations, Scoring, as_benchmark, choose, one_split
from data.benchmarks import Benchmark, Query
from data.images import load_rgb
from data.layouts import (
    BrokenAnnotations,
    ImageFiles,
    WrongRoot,
    find_folder,
    read_as,
    refuse_repeats,
    refuse_strangers,
)

SOURCE = "https://github.com/XiaoxiaoGuo/fashion-iq"
LICENCE = "Community Data License Agreement (CDLA; variant not stated); the images are Amazon's"
SPLITS = ("val", "test")
CATEGORIES = ("dress", "shirt", "toptee")
CUTS = (10, 50)
METRICS = tuple(f"{category}/recall@{k}" for category in CATEGORIES for k in CUTS)
AVERAGES = {f"average/recall@{k}": tuple(f"{category}/recall@{k}" for category in CATEGORIES) for k in CUTS} | {
    "average/recall": tuple(f"average/recall@{k}" for k in CUTS)
}
PLACES = ("", "fashioniq", "fashion-iq", "fashion_iq", "fashionIQ", "FashionIQ", "fashionIQ_dataset", "fiq")
IMAGE_PLACES = (
    "images",
    *(f"{folder}/{category}" for folder in ("images", "resized_images") for category in CATEGORIES),
    "resized_images",
)

Joining = Literal["and", "start_kit", "searle", "cirevl", "pic2word", "magiclens", "covr"]
# What the evaluators strip from both ends of a caption.
MARKS = ".?, "
# CoVR and BLIP drop these before a text is cut to 30 words.
PUNCTUATION = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
COVR_WORDS = 30


class FashionIQScoring(Scoring):
    """`gallery`: the category's split file, or only the references and targets of its queries (VAL's protocol)."""

    gallery: Literal["split", "val_union"] = "split"


class FashionIQProtocol(FashionIQScoring):
    """`joining`: how two captions become one text, named after the code that does it; `and` is CLIP4Cir's."""

    joining: Joining = "and"


SCORING = FashionIQScoring
PROTOCOL = FashionIQProtocol


class _Entry(BaseModel):
    candidate: str
    captions: list[str] = Field(min_length=2, max_length=2)
    target: str | None = None


_ENTRIES = TypeAdapter(list[_Entry])
_IDS = TypeAdapter(list[str])


def join(captions: Sequence[str], joining: Joining) -> tuple[str, ...]:
    """The query's text, or texts whose features are averaged (searle: both orders).

    Pseudo-word templates of the textual-inversion methods ("a photo of $ that ...") are theirs and are left out.
    An empty caption is joined like any other, as all of these do.
    """
    first, second = captions
    bare, other = first.strip(MARKS), second.strip(MARKS)
    texts: Mapping[Joining, tuple[str, ...]] = {
        "and": (f"{bare.capitalize()} and {other}",),
        "start_kit": (f"{first.lower()} <and> {second.lower()}",),
        "searle": (f"{bare} and {other}", f"{other} and {bare}"),
        "cirevl": (f"{bare} and {other}",),
        "pic2word": (f"{second} and {first}",),
        "magiclens": (f"{first} and {second}",),
        "covr": (" ".join(f"{first} and {second}".lower().translate(PUNCTUATION).split()[:COVR_WORDS]),),
    }
    return texts[joining]


def read(split: str, root: Path, protocol: FashionIQScoring | None = None) -> Annotations:
    """Queries and galleries of all three categories, without images.

    Args:
        split: val or test; test has no targets and therefore no metrics.
        root: a folder with `captions/` (or `json/`) and `image_splits/`, or its parent.
        protocol: `FashionIQScoring` or `FashionIQProtocol`; their defaults without it.

    Raises:
        WrongRoot, BrokenAnnotations: name what is missing or broken.
    """
    one_split("fashioniq", split, SPLITS)
    chosen = protocol or FashionIQProtocol()
    folder, captions = _folder(split, root)
    queries: list[Query] = []
    galleries: dict[str, tuple[str, ...]] = {}
    splits: dict[str, tuple[str, ...]] = {}
    for category in CATEGORIES:
        whole, gallery, found = _category(folder, captions, category, split, chosen)
        splits[category], galleries[category] = whole, gallery
        queries += found
    labelled = split == "val"
    return Annotations(
        name="fashioniq",
        split=split,
        queries=tuple(queries),
        galleries=galleries,
        protocol=chosen,
        metrics=METRICS if labelled else (),
        averages=AVERAGES if labelled else {},
        official="target_first",
        splits=splits,
    )


def load(split: str = "val", *, root: str | Path, **protocol: object) -> Benchmark:
    """The benchmark with its images: `images/<id>.jpg|png` or `resized_images/<category>/<id>.jpg` under the root."""
    place = Path(root)
    annotations = read(split, place, choose("fashioniq", FashionIQProtocol, protocol))
    files = image_files(place)

    def load_image(image_id: str) -> Image.Image:
        return load_rgb(files.locate(image_id))

    return as_benchmark(
        annotations,
        source=SOURCE,
        licence=LICENCE,
        load_image=load_image,
        images=files.fingerprint(annotations.needed),
    )


def image_files(root: Path) -> ImageFiles:
    """Where the images lie under a root that `read` accepts."""
    return ImageFiles((root / place for place in PLACES), IMAGE_PLACES)


def _folder(split: str, root: Path) -> tuple[Path, str]:
    advice = f"captions and image_splits of {SOURCE}"
    wrong: WrongRoot | None = None
    for captions in ("captions", "json"):
        names = [f"{captions}/cap.{category}.{split}.json" for category in CATEGORIES]
        names += [f"image_splits/split.{category}.{split}.json" for category in CATEGORIES]
        try:
            return find_folder(root, PLACES, names, advice), captions
        except WrongRoot as error:
            wrong = wrong or error
    assert wrong is not None
    raise wrong


def _category(
    folder: Path, captions: str, category: str, split: str, protocol: FashionIQScoring
) -> tuple[tuple[str, ...], tuple[str, ...], list[Query]]:
    """The whole split, the gallery and the queries."""
    split_file = folder / "image_splits" / f"split.{category}.{split}.json"
    listed = read_as(split_file, _IDS)
    whole = gallery = tuple(listed)
    refuse_repeats(split_file, "image", gallery)
    path = folder / captions / f"cap.{category}.{split}.json"
    entries = read_as(path, _ENTRIES)
    for index, entry in enumerate(entries):
        if split == "val" and entry.target is None:
            raise BrokenAnnotations(f"{path}: entry {index} has no target; want the val file of {SOURCE}")
    named = [(f"{category}/{i}", image) for i, one in enumerate(entries) for image in (one.candidate, one.target)
             if image is not None]  # fmt: skip
    refuse_strangers(path, gallery, named, split_file.name)
    if protocol.gallery == "val_union":
        used = {image for _, image in named}
        gallery = tuple(image for image in gallery if image in used)
    joining = protocol.joining if isinstance(protocol, FashionIQProtocol) else "and"
    return whole, gallery, [_query(category, i, entry, gallery, joining) for i, entry in enumerate(entries)]


def _query(category: str, index: int, entry: _Entry, gallery: tuple[str, ...], joining: Joining) -> Query:
    texts = join(entry.captions, joining)
    return Query(
        query_id=f"{category}/{index}",
        reference_id=entry.candidate,
        modification=texts[0],
        targets=(entry.target,) if entry.target is not None else (),
        tags=(category,),
        candidates=gallery,
        phrasings=texts if len(texts) > 1 else (),
    )
