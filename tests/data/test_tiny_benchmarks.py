"""The tiny benchmarks' truth, recomputed from the texts alone."""

import pytest

from data.benchmarks import Benchmark, load_benchmark, tiny_multi
from data.tiny_drawing import sprite
from data.tiny_edits import KINDS
from data.tiny_language import HELD_OUT_PHRASES, TRAINED, read_modification


@pytest.fixture(scope="module", params=["tiny_single", "tiny_multi", "tiny_shifted"])
def benchmark(request: pytest.FixtureRequest) -> Benchmark:
    return load_benchmark(request.param)


def test_size_and_kinds(benchmark: Benchmark) -> None:
    assert len(benchmark.queries) >= 500
    assert len(benchmark.gallery) >= 2000
    assert {tag for query in benchmark.queries for tag in query.tags} == set(KINDS)


def test_every_text_is_in_a_phrasing_never_trained_on(benchmark: Benchmark) -> None:
    openings = {template.split("{")[0].strip() for group in HELD_OUT_PHRASES.values() for template in group}
    trained = {template for group in TRAINED.values() for template in group}
    assert not openings & trained
    assert all(read_modification(query.modification) for query in benchmark.queries)


def test_targets_are_as_the_protocol_wants() -> None:
    single, multi = load_benchmark("tiny_single"), load_benchmark("tiny_multi")
    assert single.protocol["reference"] == "mask"
    assert multi.protocol["reference"] == "keep"
    assert all(len(query.targets) == 1 and len(query.subset) == 5 for query in single.queries)
    assert all(query.reference_id not in (*query.targets, *query.subset) for query in (*single.queries, *multi.queries))
    assert sum(len(query.targets) for query in multi.queries) / len(multi.queries) > 2


def test_splits_differ_and_repeat() -> None:
    again = tiny_multi.load.__wrapped__("val")  # made anew, not remembered
    assert again.digest == load_benchmark("tiny_multi").digest
    assert load_benchmark("tiny_multi") is load_benchmark("tiny_multi")
    assert again.digest != load_benchmark("tiny_multi", "test").digest
    with pytest.raises(ValueError, match="val, test"):
        load_benchmark("tiny_multi", "train")


def test_images_load(benchmark: Benchmark) -> None:
    assert benchmark.load_image(benchmark.gallery[0]).size == (96, 96)


def test_the_shifted_world_is_denser_asks_for_more_and_looks_otherwise() -> None:
    plain, shifted = load_benchmark("tiny_single"), load_benchmark("tiny_shifted")
    doubles = [sum(len(query.tags) > 1 for query in one.queries) / len(one.queries) for one in (plain, shifted)]
    assert doubles[0] < 0.25
    assert doubles[1] > 0.35
    thing = {"shape": "square", "colour": "red", "size": "large"}
    drawn = [sprite(**thing, texture="striped", shifted=new)[0] for new in (False, True)]
    assert (drawn[0] != drawn[1]).any()
    rows = [bool((picture[14] == picture[14, :1]).all()) for picture in drawn]
    assert rows == [True, False]  # level stripes, diagonal stripes
    again = [sprite(**thing, texture="plain", shifted=new)[0] for new in (False, True)]
    assert (again[0] == again[1]).all()
