"""CIRR (rc2): photos from NLVR2 in sets of six look-alikes; val scored here, test1 by the authors' server.

The community scores the one hard target and drops the reference; the authors' own code takes the best of graded soft
targets. On the same features they differ by up to 0.99 points, so `target` is part of the protocol.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import BaseModel, Field, TypeAdapter

from data.annotations import Annotations, Scoring, as_benchmark, choose, one_split
from data.benchmarks import Benchmark, Query
from data.images import load_rgb
from data.layouts import BrokenAnnotations, ImageFiles, find_folder, read_as, refuse_repeats, refuse_strangers

SOURCE = "https://github.com/Cuberick-Orion/CIRR, branch cirr_dataset"
LICENCE = "MIT (annotations); the images are NLVR2's, not licensed, and given out on request"
SPLITS = ("val", "test")
# The files call the test split test1 and name the folder of val's images dev.
FILES = {"val": "val", "test": "test1"}
CUTS = {"hard": (1, 5, 10, 50), "soft": (1, 2, 5, 10, 50, 100)}
SUBSET_CUTS = (1, 2, 3)
AVERAGES = {"average": ("recall@5", "subset_recall@1")}
PLACES = ("", "cirr", "CIRR", "cirr_dataset", "cirr_dataset/cirr", "cirr/cirr")
# Paths in the split file begin with dev/ or test1/.
IMAGE_PLACES = ("", "img_raw", "images", "..", "../img_raw")
MEMBERS = 6
# NLVR2's average hashes of its pictures, by file name: they tell a dead link's placeholder from the picture.
HASHES = ("nlvr2_{0}_hashes.json", "{0}_hashes.json", "hashes/{0}_hashes.json", "util/hashes/{0}_hashes.json")
HASHED = {"val": "dev", "test": "test1"}
# Of 64 bits: another size or compression moves a few, another picture about half of them.
MOST_BITS = 10


class CirrScoring(Scoring):
    """`target`: the one hard target (community), or the graded soft targets of the authors' code."""

    reference: Literal["mask", "keep"] = "mask"
    target: Literal["hard", "soft"] = "hard"


class CirrProtocol(CirrScoring):
    """CIRR words its queries in one way only."""


SCORING = CirrScoring
PROTOCOL = CirrProtocol


class _Set(BaseModel):
    members: list[str] = Field(min_length=MEMBERS, max_length=MEMBERS)


class _Entry(BaseModel):
    pairid: int
    reference: str
    caption: str
    img_set: _Set
    target_hard: str | None = None
    target_soft: dict[str, float] = {}


_ENTRIES = TypeAdapter(list[_Entry])
_FILES = TypeAdapter(dict[str, str])


def read(split: str, root: Path, protocol: CirrScoring | None = None) -> Annotations:
    """Queries and gallery, without images.

    Args:
        split: val, or test (the files' test1), which has no targets and therefore no metrics.
        root: a folder with `captions/` and `image_splits/`, or its parent.
        protocol: `CirrScoring` or `CirrProtocol`; their defaults without it.

    Raises:
        WrongRoot, BrokenAnnotations: name what is missing or broken.
    """
    one_split("cirr", split, SPLITS)
    chosen = protocol or CirrProtocol()
    captions, images = _paths(split, root)
    entries = read_as(captions, _ENTRIES)
    files = read_as(images, _FILES)
    gallery = tuple(files)
    refuse_repeats(captions, "pairid", (str(entry.pairid) for entry in entries))
    named = [(str(one.pairid), image) for one in entries for image in (one.reference, *one.img_set.members)]
    named += [(str(one.pairid), one.target_hard) for one in entries if one.target_hard is not None]
    refuse_strangers(captions, gallery, named, images.name)
    if split == "val":
        _refuse_unlabelled(captions, entries)
    cuts = CUTS[chosen.target]
    metrics = (*(f"recall@{k}" for k in cuts), *(f"subset_recall@{k}" for k in SUBSET_CUTS))
    return Annotations(
        name="cirr",
        split=split,
        queries=tuple(_query(entry, chosen) for entry in entries),
        galleries={"": gallery},
        protocol=chosen,
        metrics=metrics if split == "val" else (),
        averages=AVERAGES if split == "val" else {},
        official="gallery_order",
    )


def load(split: str = "val", *, root: str | Path, **protocol: object) -> Benchmark:
    """The benchmark with its images: `dev/` and `test1/` beside the annotations, under `img_raw/`, or one level up.

    Where NLVR2's file of hashes lies beside the annotations, images are compared with it.
    """
    place = Path(root)
    annotations = read(split, place, choose("cirr", CirrProtocol, protocol))
    captions, images = _paths(split, place)
    names = read_as(images, _FILES)
    files = ImageFiles((captions.parents[1], place), IMAGE_PLACES)

    def load_image(image_id: str) -> Image.Image:
        return load_rgb(files.locate(names[image_id]))

    return as_benchmark(
        annotations,
        source=SOURCE,
        licence=LICENCE,
        load_image=load_image,
        images=files.fingerprint(names[image] for image in annotations.needed),
        doubt=_doubt(split, captions.parents[1], names, files),
    )


def _doubt(split: str, folder: Path, names: Mapping[str, str], files: ImageFiles) -> Callable[[str], str | None] | None:
    """Says of an image that it is another than NLVR2 hashed; nothing to say where there is no file of hashes."""
    found = (folder / name.format(HASHED[split]) for name in HASHES)
    path = next((one for one in found if one.is_file()), None)
    if path is None:
        return None
    published = read_as(path, _FILES)

    def doubt(image_id: str) -> str | None:
        import imagehash  # brings SciPy along

        wanted = published.get(Path(names[image_id]).name)
        if wanted is None:
            return None
        with Image.open(files.locate(names[image_id])) as image:  # as stored: NLVR2 turned no picture upright
            bits = imagehash.average_hash(image) - imagehash.hex_to_hash(wanted)
        if bits <= MOST_BITS:
            return None
        return f"another picture than NLVR2's: {bits} of 64 bits differ from its average hash in {path.name}"

    return doubt


def _paths(split: str, root: Path) -> tuple[Path, Path]:
    names = (f"captions/cap.rc2.{FILES[split]}.json", f"image_splits/split.rc2.{FILES[split]}.json")
    folder = find_folder(root, PLACES, names, f"captions and image_splits of {SOURCE}")
    return folder / names[0], folder / names[1]


def _refuse_unlabelled(path: Path, entries: list[_Entry]) -> None:
    for entry in entries:
        if entry.target_hard is None or entry.target_hard not in entry.img_set.members:
            raise BrokenAnnotations(
                f"{path}: pairid {entry.pairid}: target_hard is {entry.target_hard!r}; want one of the set's members"
            )


def _query(entry: _Entry, protocol: CirrScoring) -> Query:
    targets, gains = _targets(entry, protocol)
    return Query(
        query_id=str(entry.pairid),
        reference_id=entry.reference,
        modification=entry.caption,
        targets=targets,
        subset=tuple(member for member in entry.img_set.members if member != entry.reference),
        gains=gains,
    )


def _targets(entry: _Entry, protocol: CirrScoring) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Target ids, the hard one first, and what each is worth (empty: 1 each).

    A soft value below 0 is worth 0, as in the authors' code, where the best of the targets found starts at 0. The
    reference can be a soft target (37 queries of val); where it is masked nobody can find it.
    """
    if entry.target_hard is None:
        return (), ()
    if protocol.target == "hard":
        return (entry.target_hard,), ()
    graded = {entry.target_hard: 0.0} | entry.target_soft
    if protocol.reference == "mask":
        graded.pop(entry.reference, None)
    return tuple(graded), tuple(max(0.0, gain) for gain in graded.values())
