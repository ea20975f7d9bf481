"""Missing and unreadable images stop an evaluation, or are counted with every score."""

import json
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from data.benchmarks import Benchmark, Query, cirr
from data.images import BadImage
from data.presence import MissingImages, check_images, find_faults
from data.tiny_layouts import write_layouts


def benchmark(*gone: str) -> Benchmark:
    """Four images; b's set is a, b, c."""

    def load_image(image_id: str) -> Image.Image:
        if image_id in gone:
            raise BadImage("truncated", f"{image_id}.jpg")
        return Image.new("RGB", (12, 12))

    queries = (
        Query("1", "a", "x", ("b",), subset=("b", "c")),
        Query("2", "b", "x", ("d",)),
        Query("3", "ref", "x", ("a", "b")),
    )
    return Benchmark(
        "toy", "val", ("a", "b", "c", "d", "e"), queries, {"reference": "mask"}, ("recall@1",), "", "", load_image, "7"
    )


def test_a_whole_benchmark_passes_unchanged() -> None:
    found = check_images(benchmark())
    assert found.benchmark.digest == "7"
    assert found.losses == {}


def test_a_picture_that_is_another_is_as_good_as_missing(tmp_path: Path) -> None:
    write_layouts(tmp_path, groups=1, queries=1)
    root = tmp_path / "cirr"
    files = sorted((root / "img_raw" / "dev").glob("*.png"))
    assert cirr.load("val", root=root).doubt is None
    hashes = {file.name: str(imagehash.average_hash(Image.open(file))) for file in files}
    (root / "nlvr2_dev_hashes.json").write_text(json.dumps(hashes))
    assert find_faults(cirr.load("val", root=root)) == {}
    # A placeholder in place of the second picture; of a picture without a hash nothing can be said.
    half = np.zeros((64, 64, 3), dtype=np.uint8)
    half[32:] = 255
    for file in files[1:3]:
        Image.fromarray(half).save(file)
    del hashes[files[2].name]
    (root / "nlvr2_dev_hashes.json").write_text(json.dumps(hashes))
    faults = find_faults(cirr.load("val", root=root))
    assert list(faults) == [files[1].stem]
    assert "another picture than NLVR2's" in faults[files[1].stem]


def test_missing_images_stop_and_are_listed() -> None:
    with pytest.raises(MissingImages, match=r"2 images .* touches 2 of 3 queries and 1 of 5 gallery") as caught:
        check_images(benchmark("c", "ref"))
    assert caught.value.faults == {"c": "truncated: c.jpg", "ref": "truncated: ref.jpg"}
    assert "--allow-missing" in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "queries", "images"),
    [
        ("e", [], ["e"]),  # a distractor: the gallery alone shrinks
        ("c", ["1"], ["c"]),  # a member of the set of query 1
        ("d", ["2"], ["d"]),  # the target of query 2
        ("ref", ["3"], []),  # the reference of query 3, outside the gallery
        ("b", ["1", "2", "3"], ["b"]),
    ],
)
def test_losses_are_counted(gone: str, queries: list[str], images: list[str]) -> None:
    if len(queries) == 3:
        with pytest.raises(MissingImages):
            check_images(benchmark(gone), allow_missing=True)
        return
    found = check_images(benchmark(gone), allow_missing=True)
    assert (list(found.lost_queries), list(found.lost_images)) == (queries, images)
    assert len(found.benchmark.queries) == 3 - len(queries)
    assert found.benchmark.protocol["lost_queries"] == str(len(queries))
    assert found.benchmark.protocol["lost_gallery_images"] == str(len(images))
    assert found.benchmark.digest != "7"
