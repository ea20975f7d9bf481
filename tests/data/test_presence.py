"""Missing and unreadable images stop an evaluation, or are counted with every score."""

import pytest
from PIL import Image

from data.benchmarks import Benchmark, Query
from data.images import BadImage
from data.presence import MissingImages, check_images


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
