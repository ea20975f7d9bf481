"""Filters that compare pictures by perceptual hash."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.artifact import Artifact
from data.benchmarks import Benchmark
from tasks.filters import World, contamination, same_picture
from tasks.filters._hashes import distances, hashes
from tests.tasks.filters.triplets import RESOURCES, measured, triplet
from tests.tasks.small_artifacts import images_artifact


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """Six noise images, of which image-005 is image-000 again: larger, and compressed."""
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "pool" / "files"
    folder.mkdir(parents=True)
    first = images_artifact(tmp_path / "first", 1)
    with Image.open(first.path.parent / "files" / "image-000.png") as image:
        image.resize((image.width * 2, image.height * 2)).save(tmp_path / "copy.jpg", quality=70)
    with Image.open(tmp_path / "copy.jpg") as copy:
        copy.save(folder / "image-005.png")
    return images_artifact(tmp_path / "pool", 6)


def world(images: Artifact) -> World:
    return World(images, images, RESOURCES, lambda rows: None)


def pair(reference: int, target: int | None) -> dict[str, object]:
    ids = [None if place is None else f"image-{place:03d}" for place in (reference, target)]
    return triplet("make it red", reference_id=ids[0], target_id=ids[1])


def test_a_copy_of_another_size_is_found(images: Artifact) -> None:
    rows = [pair(0, 5), pair(0, 1), pair(0, None)]
    copy, other, none = measured(same_picture.Config(), *rows, world=world(images))
    assert copy.value is not None
    assert copy.value <= 4
    assert other.value is not None
    assert other.value > 10
    assert none == (None, "no_target_image")


def test_an_image_that_is_gone_is_named(images: Artifact) -> None:
    (images.path.parent / "files" / "image-002.png").unlink()
    with pytest.raises(ValueError, match=r"image 'image-002' at .* could be read when it was ingested, but not now"):
        measured(same_picture.Config(), pair(0, 2), world=world(images))


def test_hashes_are_computed_once(images: Artifact) -> None:
    opened = []

    def opener(name: str) -> Image.Image:
        opened.append(name)
        with Image.open(images.path.parent / "files" / f"{name}.png") as image:
            return image.convert("RGB")

    openers = {name: (lambda name=name: opener(name)) for name in ("image-001", "image-002")}
    first = hashes(openers, 1)
    assert hashes(openers, 2) == first
    assert opened == ["image-001", "image-002"]
    some = np.array(list(first.values()), dtype=np.uint64)
    bits = (first["image-001"] ^ first["image-002"]).bit_count()
    assert distances(some, some).tolist() == [[0, bits], [bits, 0]]


def test_an_image_of_a_gallery_is_found(images: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    (tmp_path / "copy.jpg").rename(gallery / "theirs.jpg")
    (gallery / "broken.jpg").write_bytes(b"no image")
    one = contamination.Config(on=True, galleries=(str(gallery),))
    found = measured(one, pair(1, 0), pair(1, 2), pair(5, None), world=world(images))
    assert [one.keep(each.value) for each in found] == [False, True, False]
    assert found[0].found.startswith("image-000 differs from ")
    assert "theirs.jpg" in found[0].found
    assert "were not compared: 1, for example broken.jpg" in caplog.text
    before = one.facts()
    (gallery / "more.jpg").write_bytes((gallery / "theirs.jpg").read_bytes())
    assert one.facts() != before


def test_a_benchmark_is_a_gallery(images: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(images.path.parent / "files" / "image-003.png") as image:
        theirs = image.convert("RGB")
    benchmark = Benchmark(
        "made_up", "val", ("a",), (), {"reference": "mask"}, (), "here", "none", lambda image_id: theirs, "digest"
    )
    monkeypatch.setattr(contamination, "load_benchmark", lambda name, split, **options: benchmark)
    one = contamination.Config(on=True, galleries=("cirr:test1:/data",))
    assert one.facts() == {"cirr:test1:/data": "digest"}
    near, far = measured(one, pair(3, None), pair(1, 2), world=world(images))
    assert near == (0.0, "image-003 differs from cirr:test1:/data: a in 0 of 64 bits")
    assert one.keep(far.value)


def test_a_filter_without_a_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no galleries"):
        contamination.Config(on=True)
    with pytest.raises(ValueError, match="neither a folder nor a benchmark; did you mean 'tiny_single'"):
        contamination.Config(galleries=("tiny_singel",))
    with pytest.raises(ValueError, match="'cirr' has no root; give the folder that holds the benchmark: cirr:val:FOLD"):
        contamination.Config(on=True, galleries=("cirr",)).facts()
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").write_text("no image", encoding="ascii")
    with pytest.raises(ValueError, match="holds no readable image"):
        contamination._images(str(empty))
