"""A model's answers are judged like finished rankings: the two ways to a score agree, ties included."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data.benchmarks import circo, cirr, fashioniq, genecis
from data.benchmarks.cirr import CirrScoring
from data.benchmarks.fashioniq import FashionIQScoring
from data.benchmarks.genecis import GeneCisScoring
from data.protocols import Judge, outcome
from data.rankings import from_features, normalised
from data.scoring import compare, evaluate
from tests.shared_data import shared_data


def some(module: Any, protocol: Any, step: int) -> tuple[Any, Any]:
    """Every step-th query of the real benchmark, with annotations to match."""
    root = shared_data("annotations")
    annotations = module.read("val", root, protocol)
    whole = module.load("val", root=root, **protocol.model_dump())
    benchmark = replace(whole, queries=whole.queries[::step])
    return annotations.restricted(benchmark), benchmark


@pytest.mark.parametrize("protocol", [CirrScoring(), CirrScoring(target="soft"), CirrScoring(ties="pessimistic")])
def test_cirr(protocol: CirrScoring) -> None:
    annotations, benchmark = some(cirr, protocol, 20)
    generator = np.random.default_rng(0)
    query = generator.choice([-1.0, 1.0], (len(benchmark.queries), 16)).astype(np.float32)
    gallery = generator.choice([-1.0, 1.0], (len(benchmark.gallery), 16)).astype(np.float32)
    expected = evaluate(annotations, from_features(annotations, {"query": query, "gallery": gallery}))
    scores = normalised("query", query) @ normalised("gallery", gallery).T
    judge = Judge(benchmark)
    answers = [judge.answer(one, row) for one, row in zip(benchmark.queries, scores, strict=True)]
    found = outcome(annotations, answers)
    assert {name: found.percent(name) for name in found.metrics} == {
        name: expected.percent(name) for name in expected.metrics
    }
    assert found.ties == expected.ties > 10
    assert all(answer.query.reference_id not in answer.ranked and len(answer.ranked) == 50 for answer in answers)
    assert set(compare(found, expected).values()) == {1.0}


def test_fashioniq_ranks_its_category_only() -> None:
    annotations, benchmark = some(fashioniq, FashionIQScoring(reference="mask"), 60)
    generator = np.random.default_rng(1)
    features = {one: generator.choice([-1.0, 1.0], 16).astype(np.float32) for one in (*benchmark.gallery,)}
    wanted = np.stack([features[one.targets[0]] for one in benchmark.queries])
    noise = generator.choice([-1.0, 1.0], wanted.shape).astype(np.float32)
    query = np.where(generator.random(wanted.shape) < 0.5, wanted, noise)
    arrays: dict[str, Any] = {}
    for part, ids in annotations.galleries.items():
        mine = [row for row, one in enumerate(annotations.queries) if annotations.part(one) == part]
        arrays |= {f"{part}_query": query[mine], f"{part}_gallery": np.stack([features[one] for one in ids])}
    expected = evaluate(annotations, from_features(annotations, arrays))
    gallery = normalised("gallery", np.stack([features[one] for one in benchmark.gallery]))
    judge = Judge(benchmark)
    scores = normalised("query", query) @ gallery.T
    answers = [judge.answer(one, row) for one, row in zip(benchmark.queries, scores, strict=True)]
    found = outcome(annotations, answers)
    assert {name: found.percent(name) for name in found.metrics} == {
        name: expected.percent(name) for name in expected.metrics
    }
    assert found.ties == expected.ties > 0
    assert all(set(answer.ranked) <= set(annotations.galleries[answer.query.tags[0]]) for answer in answers)


def test_genecis_gives_the_target_every_tie_and_a_repeated_target_its_best_place() -> None:
    _, benchmark = some(genecis, GeneCisScoring(), 1)
    repeated = next(one for one in benchmark.queries if one.query_id == "focus_attribute/14")
    judge = Judge(benchmark)
    scores = np.zeros(len(benchmark.gallery), dtype=np.float32)
    rows = {image: row for row, image in enumerate(benchmark.gallery)}
    scores[rows[repeated.targets[0]]] = 1.0
    answer = judge.answer(repeated, scores)
    assert answer.values == {"recall@1": 1.0, "recall@2": 1.0, "recall@3": 1.0}
    assert answer.tied  # its own copy among the rivals could be placed before it
    assert answer.ranked[:2] == (repeated.targets[0],) * 2


def test_an_interval_draws_within_categories() -> None:
    root = shared_data("annotations")
    annotations = circo.read("val", root, gallery=[str(i) for i in range(3000)])
    generator = np.random.default_rng(2)
    arrays = {"query": generator.standard_normal((220, 4)), "gallery": generator.standard_normal((3000, 4))}
    result = evaluate(annotations, from_features(annotations, arrays))
    for metric in result.metrics:
        value, interval = result.percent(metric), result.interval(metric)
        assert value is not None
        assert interval is not None
        assert interval[0] <= value <= interval[1]
    assert result.interval("map@5", seed=1) == result.interval("map@5", seed=1)
