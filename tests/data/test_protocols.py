"""A gallery of five images, a to e, and scores whose order can be read off."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from data.benchmarks import Benchmark, Query
from data.protocols import Answer, Judge, predictions_table, score_rows, scores_table
from data.schemas import PREDICTIONS, SCORES


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


def test_a_pessimistic_protocol_puts_targets_behind_their_equals() -> None:
    query = Query("q", "a", "change it", ("b",), subset=("b", "d"))
    hopeful = benchmark(query, metrics=("recall@1", "subset_recall@1"))
    strict = Benchmark(**{**vars(hopeful), "protocol": {"reference": "mask", "ties": "pessimistic"}})
    equal = np.array([0.0, 0.5, 0.5, 0.5, 0.1], np.float32)
    assert Judge(hopeful).answer(query, equal).values == {"recall@1": 1.0, "subset_recall@1": 1.0}
    assert Judge(strict).answer(query, equal).values == {"recall@1": 0.0, "subset_recall@1": 0.0}
    assert Judge(strict).answer(query, equal).ranked == ("c", "d", "b", "e")


def test_a_tie_that_no_metric_sees_is_not_reported() -> None:
    assert not ask(SINGLE, [0.0, 0.9, 0.5, 0.1, 0.1]).tied  # d = e, neither a target
    assert not ask(SINGLE, [0.5, 0.4, 0.5, 0.3, 0.1]).tied  # a is masked
    # b and e come before c = d, so recall@2 misses either way; among the look-alikes the tie matters.
    assert not ask(SINGLE, [0.0, 0.9, 0.5, 0.5, 0.8]).tied
    assert ask(SINGLE, [0.0, 0.9, 0.5, 0.5, 0.8], metrics=("recall@2", "subset_recall@2")).tied


def test_equal_targets_are_no_tie() -> None:
    query = Query("q", "a", "change it", ("d", "b"))
    assert not ask(query, [0.0, 0.9, 0.1, 0.9, 0.2], reference="keep", metrics=("map@2",)).tied


def test_a_query_ranks_its_own_candidates() -> None:
    query = Query("q", "a", "change it", ("c",), candidates=("e", "c", "a"))
    answer = ask(query, [0.9, 0.8, 0.3, 0.7, 0.1])
    assert answer.ranked == ("c", "e")
    assert answer.values == {"recall@1": 1.0, "recall@2": 1.0}


def test_gains_give_the_best_of_what_was_found() -> None:
    # order e, d, c, b: nothing at 1; d is worth 0.5 at 2; c, worth 1, comes at 3
    query = Query("q", "a", "change it", ("c", "d"), gains=(1.0, 0.5))
    answer = ask(query, [0.0, 0.1, 0.5, 0.6, 0.9], metrics=("recall@1", "recall@2", "recall@3"))
    assert answer.values == {"recall@1": 0.0, "recall@2": 0.5, "recall@3": 1.0}


def test_rows_average_seeds_before_queries() -> None:
    first = Query("1", "a", "m", ("c",), tags=("colour",))
    second = Query("2", "b", "m", ("d",), tags=("colour", "size"))
    both = Benchmark(**{**vars(benchmark(SINGLE)), "queries": (first, second), "metrics": ("recall@1",)})
    judge = Judge(both)
    c_best, d_best = np.array([0, 0, 1, 0, 0.1], np.float32), np.array([0, 0, 0, 1, 0.1], np.float32)
    runs: dict[int | None, list[Answer]] = {
        0: [judge.answer(first, c_best), judge.answer(second, c_best)],  # hit, miss
        1: [judge.answer(first, c_best), judge.answer(second, d_best)],  # hit, hit
    }
    rows = list(score_rows("composed", both, runs))
    # query 1: (100 + 100) / 2 = 100; query 2: (0 + 100) / 2 = 50; both: 75
    assert [(row["metric"], row["value"], row["queries"]) for row in rows] == [
        ("recall@1", 75.0, 2),
        ("recall@1/colour", 75.0, 2),
        ("recall@1/size", 50.0, 1),
    ]
    # A resample holds query 1 twice, each once, or query 2 twice: 100, 75 or 50.
    assert (rows[0]["low"], rows[0]["high"], rows[0]["seeds"]) == (50.0, 100.0, 2)
    assert scores_table(rows).schema == SCORES


def test_predictions_list_the_ranked_images() -> None:
    judge = Judge(benchmark(SINGLE), depth=2)
    answer = judge.answer(SINGLE, np.array([0.9, 0.1, 0.8, 0.2, 0.3], np.float32))
    table = predictions_table("image_only", judge.benchmark, None, [answer])
    assert table.schema == PREDICTIONS
    row = {"method": "image_only", "benchmark": "five", "seed": None, "query_id": "q"}
    assert table.to_pylist() == [
        {**row, "rank": 1, "image_id": "c", "score": pytest.approx(0.8)},
        {**row, "rank": 2, "image_id": "e", "score": pytest.approx(0.3)},
    ]


def test_nan_and_constant_scores_are_errors() -> None:
    with pytest.raises(ValueError, match="query q: 1 of 5 scores are not finite"):
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
        ({"queries": (Query("q", "a", "m", ("c",), candidates=("b",)),)}, "lack its target"),
        ({"queries": (Query("q", "a", "m", ("c",), gains=(1.0, 0.5)),)}, "1 targets and 2 gains"),
        ({"queries": (Query("q", "a", "m", ("c",), gains=(1.0,)),), "metrics": ("map@5",)}, "map@k is not defined"),
        ({"protocol": {}}, "want 'mask' or 'keep'"),
        ({"metrics": ("recall@0",)}, "unknown metric 'recall@0'"),
        ({"protocol": {"reference": "keep", "per_tag": "best"}}, "unknown metric 'best'"),
    ],
)
def test_a_benchmark_that_contradicts_itself_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Benchmark(**{**vars(benchmark(SINGLE)), **change})
