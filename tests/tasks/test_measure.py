"""What an evaluation counts as lost, and which methods it compares."""

from dataclasses import replace
from pathlib import Path

from data.benchmarks import Query, cirr
from data.presence import Complete
from data.protocols import Answer
from tasks.measure import Measured, Prepared
from tasks.methods import filled
from tasks.score_tables import paired, rows, write_submissions
from tests.shared_data import shared_data


def prepared() -> Prepared:
    root = shared_data("annotations")
    benchmark = cirr.load("val", root=root)
    return Prepared(cirr.read("val", root).restricted(benchmark), Complete(benchmark))


def measured(one: Prepared, kind: str, label: str, hits: int, first: bool = True) -> Measured:
    """The first `hits` queries are answered right by every metric, the others wrong."""

    def answered(place: int, query: Query) -> Answer:
        plain = {metric.split("/")[-1]: float(place < hits) for metric in one.annotations.metrics}
        return Answer(query, (), (), plain, tied=False)

    answers = tuple(answered(place, query) for place, query in enumerate(one.benchmark.queries))
    return Measured(one, label, kind, f"{label}/{kind}", answers, {"weight": "0.5"} if kind == "joint" else {}, first)


def test_queries_without_a_text_are_lost_and_counted() -> None:
    whole = prepared()
    texts = {query.query_id: "a text" for query in whole.benchmark.queries[3:]}
    kept = whole.kept(texts)
    assert kept == list(range(3, 4181))
    some = whole.only(kept)
    assert len(some.annotations.queries) == len(some.benchmark.queries) == 4178
    assert some.protocol["queries_without_target_text"] == "3"
    assert "queries_without_target_text" not in whole.protocol
    assert whole.only(list(range(4181))) is whole
    row = next(row for row in rows([measured(some, "joint", "a", 4178 // 2)]) if row["metric"] == "recall@1")
    assert (row["value"], row["queries"]) == (50.0, 4178)
    assert '"queries_without_target_text":"3"' in row["protocol"]
    assert '"weight":"0.5"' in row["protocol"]


def test_a_server_gets_all_queries_or_no_file(tmp_path: Path) -> None:
    root = shared_data("annotations")
    benchmark = cirr.load("test", root=root)
    whole = Prepared(cirr.read("test", root), Complete(benchmark))
    deep = [Answer(query, benchmark.gallery, (), {}, tied=False) for query in benchmark.queries]
    composed = Measured(whole, "a", "composed", "composed", tuple(deep))
    some = whole.only(range(1, len(deep)))
    joint = Measured(some, "a", "joint", "joint", tuple(replace(one, scores=(1.0,)) for one in deep[1:]))
    # One query has no text: the joint answers take the composed one in its place.
    full = filled(joint, composed)
    assert (full.answers[0], full.answers[1]) == (deep[0], joint.answers[0])
    assert full.protocol["queries_answered_by_composed"] == "1"
    files, notes = write_submissions(tmp_path, [composed, full])
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        f"{method}/{name}"
        for method in ("composed", "joint")
        for name in ("cirr_recall.json", "cirr_recall_subset.json")
    ]
    assert notes == []
    # Where a query is lost with its image there is no file at all.
    lost = replace(whole.complete, lost_queries=("0",))
    files, notes = write_submissions(tmp_path / "none", [replace(composed, prepared=Prepared(some.annotations, lost))])
    assert files == []
    assert "no submission files of composed for cirr: 1 queries are lost" in notes[0]


def test_what_is_compared() -> None:
    one = prepared()
    less = one.only(list(range(3, 4181)))
    found = paired(
        [
            measured(one, "image_only", "a", 5),
            measured(one, "target_text", "a", 10),
            measured(one, "composed", "a", 1000),
            measured(one, "joint", "a", 1000),
            measured(one, "composed", "b", 2000, first=False),
            measured(less, "joint", "b", 2000, first=False),  # of other queries
        ]
    )
    tests = {tuple(test["of"]): test["p"] for test in found if test["metric"] == "recall@1"}
    assert set(tests) == {("a/composed", "b/composed"), ("a/joint", "a/target_text"), ("a/joint", "a/composed")}
    assert tests["a/joint", "a/composed"] == 1.0  # the same answers
    assert tests["a/composed", "b/composed"] < 0.01  # 1,000 more hits of 4,181
