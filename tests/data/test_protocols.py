"""A gallery of five images, a to e, and scores whose order can be read off."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from data.benchmarks import Benchmark, Query
from data.protocols import Answer, Judge


def benchmark(query: Query, reference: str = "mask", metrics: Sequence[str] = ("recall@1", "recall@2")) -> Benchmark:
    return Benchmark(
        name="five",
        split="val",
        gallery=("a", "b", "c", "d", "e"),
        queries=(query,),
        protocol={"reference": reference},
        metrics=tuple(metrics),
        source="the test",
        licence="none",
        load_image=lambda name: Image.new("RGB", (10, 10)),
        digest="0",
    )


def ask(query: Query, scores: Sequence[float], **options: object) -> Answer:
    return Judge(benchmark(query, **options), depth=3).answer(query, np.array(scores, np.float32))  # type: ignore[arg-type]


SINGLE = Query("q", "a", "change it", ("c",), subset=("b", "c", "d"))


def test_masked_reference_leaves_the_gallery() -> None:
    answer = ask(SINGLE, [0.9, 0.1, 0.8, 0.2, 0.3])
    assert answer.ranked == ("c", "e", "d")
    assert answer.scores == pytest.approx((0.8, 0.3, 0.2))
    assert answer.values == {"recall@1": 1.0, "recall@2": 1.0}


def test_kept_reference_competes() -> None:
    answer = ask(SINGLE, [0.9, 0.1, 0.8, 0.2, 0.3], reference="keep")
    assert answer.ranked == ("a", "c", "e")
    assert answer.values == {"recall@1": 0.0, "recall@2": 1.0}


def test_subset_recall_ranks_the_look_alikes_alone() -> None:
    # In the gallery c comes third after e and d; among b, c, d it comes second.
    values = ask(SINGLE, [0.0, 0.1, 0.5, 0.6, 0.9], metrics=("recall@2", "subset_recall@1", "subset_recall@2")).values
    assert values == {"recall@2": 0.0, "subset_recall@1": 0.0, "subset_recall@2": 1.0}


def test_average_precision_takes_all_targets_and_recall_the_main_one() -> None:
    query = Query("q", "a", "change it", ("d", "b"))
    # order b, c, d, e: hits at ranks 1 and 3 of two relevant: (1/1 + 2/3) / 2 = 5/6; the main target d is third
    answer = ask(query, [0.0, 0.9, 0.8, 0.7, 0.1], reference="keep", metrics=("map@5", "recall@2"))
    assert answer.values["map@5"] == pytest.approx(5 / 6)
    assert answer.values["recall@2"] == 0.0


def test_metrics_look_deeper_than_the_answer_that_is_kept() -> None:
    answer = ask(SINGLE, [0.9, 0.8, 0.1, 0.3, 0.2], metrics=("recall@4",))
    assert answer.ranked == ("b", "d", "e")
    assert answer.values == {"recall@4": 1.0}


def test_equal_scores_keep_the_order_of_the_gallery_and_are_reported() -> None:
    answer = ask(SINGLE, [0.0, 0.5, 0.5, 0.1, 0.1])
    assert answer.ranked == ("b", "c", "d")
    assert answer.tied


def test_a_tie_that_no_metric_sees_is_not_reported() -> None:
    assert not ask(SINGLE, [0.0, 0.9, 0.5, 0.1, 0.1]).tied  # d = e, neither a target
    assert not ask(SINGLE, [0.5, 0.4, 0.5, 0.3, 0.1]).tied  # a is masked
    # b and e come before c = d, so recall@2 misses either way; among the look-alikes the tie matters.
    assert not ask(SINGLE, [0.0, 0.9, 0.5, 0.5, 0.8]).tied
    assert ask(SINGLE, [0.0, 0.9, 0.5, 0.5, 0.8], metrics=("recall@2", "subset_recall@2")).tied


def test_equal_targets_are_no_tie() -> None:
    query = Query("q", "a", "change it", ("d", "b"))
    assert not ask(query, [0.0, 0.9, 0.1, 0.9, 0.2], reference="keep", metrics=("map@2",)).tied


def test_nan_and_constant_scores_are_errors() -> None:
    with pytest.raises(ValueError, match=r"query 'q': 1 of 5 scores are not finite"):
        ask(SINGLE, [0.0, float("nan"), 0.5, 0.1, 0.1])
    with pytest.raises(ValueError, match=r"all 4 scores are 0\.5"):
        ask(SINGLE, [0.9, 0.5, 0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"shape \(4,\), want \(5,\)"):
        ask(SINGLE, [0.9, 0.5, 0.5, 0.5])


def test_hidden_targets_give_answers_without_values() -> None:
    answer = ask(Query("q", "a", "change it", ()), [0.9, 0.1, 0.8, 0.2, 0.3], metrics=())
    assert answer.ranked == ("c", "e", "d")
    assert answer.values == {}
    assert not answer.tied


def test_order_of_the_gallery_is_irrelevant_without_ties() -> None:
    scores = dict(zip("abcde", [0.9, 0.1, 0.8, 0.2, 0.3], strict=True))
    here = benchmark(SINGLE)
    turned = Benchmark(**{**vars(here), "gallery": ("e", "c", "a", "d", "b")})
    answers = [
        Judge(one, depth=4).answer(SINGLE, np.array([scores[image] for image in one.gallery], np.float32))
        for one in (here, turned)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": ("a", "a", "c")}, "gallery image 'a' occurs more than once"),
        ({"queries": (Query("q", "a", "m", ("x",)),)}, "'x', which is not in the gallery"),
        ({"queries": (Query("q", "a", "m", ("c",)),) * 2}, "query 'q' occurs more than once"),
        ({"queries": (Query("q", "a", "m", ()),)}, "has no target"),
        ({"queries": (Query("q", "a", "m", ("a",)),)}, "its own reference as target"),
        ({"queries": (Query("q", "a", "m", ("c",), ("b",)),), "metrics": ("subset_recall@1",)}, "lacks its target 'c'"),
        ({"protocol": {}}, "want 'mask' or 'keep'"),
        ({"metrics": ("recall@0",)}, "unknown metric 'recall@0'"),
        ({"protocol": {"reference": "keep", "per_tag": "best"}}, "unknown metric 'best'"),
    ],
)
def test_a_benchmark_that_contradicts_itself_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Benchmark(**{**vars(benchmark(SINGLE)), **change})
