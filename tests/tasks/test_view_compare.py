"""Two runs side by side, and the figures of one."""

from pathlib import Path
from typing import Any

import pytest

from data.artifact import Artifact, Counts, write_json
from data.benchmarks import load_benchmark
from data.metrics import binomial_interval, paired_test
from data.schemas import PREDICTIONS, SCORES, TRIPLETS
from tasks.runs import RunRecord, StageRecord
from tasks.store import home
from tasks.view_compare import Side, Texts, duel, duels, metric_rows, stage_rows
from tasks.view_figures import figures
from tasks.view_quality import quality
from tasks.view_source import Source
from tasks.view_table import Question
from tests.tasks.view_world import put, small_world, triplet

QUERIES = load_benchmark("tiny_single").queries[:4]


def evaluation(found: list[list[bool]]) -> Artifact:
    """An evaluation in which each seed has the targets of the first four queries at rank 1, or does not."""
    rows: list[dict[str, Any]] = []
    for seed, hits in enumerate(found):
        for query, hit in zip(QUERIES, hits, strict=True):
            other = next(one for one in query.subset if one not in query.targets)
            ranked = [query.targets[0], other] if hit else [other, query.targets[0]]
            same = {"method": "composed", "benchmark": "tiny_single", "seed": seed, "query_id": query.query_id}
            rows += [{**same, "rank": rank, "image_id": one, "score": -rank} for rank, one in enumerate(ranked, 1)]
    value = 100 * sum(map(sum, found)) / (4 * len(found))
    score = {"method": "composed", "benchmark": "tiny_single", "split": "val", "protocol": "{}", "metric": "recall@1"}
    scores = [{**score, "value": value, "low": value - 5, "high": value + 5, "queries": 4, "seeds": len(found)}]
    return put(
        "evaluate",
        Counts(read=4, kept=4, written=1),
        {"scores.parquet": (SCORES, scores), "predictions.parquet": (PREDICTIONS, rows)},
        config={"split": "val", "options": {}, "made_up": found},
        facts={"benchmarks": {"tiny_single": "the same"}},
    )


def run(name: str, *artifacts: Artifact) -> Side:
    """A recorded run of some artifacts."""
    stages = [
        StageRecord(
            stage=one.stage, state="ran", key=one.key, artifact=one.path.relative_to(home()).as_posix(),
            **one.counts.model_dump(include={"read", "kept", "written"}),
        )
        for one in artifacts
    ]  # fmt: skip
    record = RunRecord(
        run=name, recipe="r", state="completed", started="", config={}, rerun=[], until=None, stages=stages
    )
    write_json(home() / "runs" / name / "run.json", record.model_dump(mode="json"))
    return Side(name)


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Side, Side]:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    kept = small_world(tmp_path / "photos", triplets=8)
    rows = [triplet(place, 6, modification=f"other words {place}") for place in (1, 7, 9)]
    fewer = put("generate", Counts(read=3, kept=3, written=3), {"triplets.parquet": (TRIPLETS, rows)})
    left = run("one", kept, evaluation([[True, True, False, False], [True, False, False, False]]))
    return left, run("two", fewer, evaluation([[True, False, True, False]]))


def test_stages_and_metrics_stand_beside_each_other(sides: tuple[Side, Side]) -> None:
    assert stage_rows(*sides) == [
        ("filter", "11", "8", "8", "-", "-", "-", "different"),
        ("evaluate", "4", "4", "1", "4", "4", "1", "different"),
        ("generate", "-", "-", "-", "3", "3", "3", "different"),
    ]
    assert metric_rows(*sides) == [
        ("tiny_single val", "recall@1", "composed", "37.50 (32.5 to 42.5)", "50.00 (45.0 to 55.0)", "+12.50")
    ]


def test_queries_are_told_by_who_answered_them(sides: tuple[Side, Side]) -> None:
    assert duels(*sides) == [("tiny_single", "composed")]
    fought = duel(*sides, "tiny_single", "composed", 1)
    answered = [one.found for one in fought.queries[:4]]
    # Half of the seeds have the second query right: that counts as answered.
    assert answered == [(True, True), (True, False), (False, True), (False, False)]
    assert [one.query.query_id for one in fought.some((False, True))] == [QUERIES[2].query_id]
    rest = [0.0] * (len(fought.queries) - 4)
    assert fought.p == paired_test([1, 1, 0, 0, *rest], [1, 0, 1, 0, *rest])
    assert duel(*sides, "tiny_single", "composed", 2).queries[3].found == (True, True)


def test_texts_about_the_same_references_stand_beside_each_other(sides: tuple[Side, Side]) -> None:
    texts = Texts(*sides)
    assert texts.shared == 2  # references 1 (of 1 and 7) and 3 (of 9)
    (first, left, right), (second, *_) = texts.page(0, 10)
    assert (first, second) == ("0001.png", "0003.png")
    assert [row["triplet_id"] for row in left] == ["t0001", "t0007"]
    assert [row["modification"] for row in right] == ["other words 1", "other words 7"]
    assert texts.page(2, 10) == []


def test_figures_count_every_triplet(sides: tuple[Side, Side]) -> None:
    found = figures(Source(Artifact(sides[0].with_file("verdicts.parquet").path, "filter", "k")).kept)  # type: ignore[union-attr]
    assert dict(found.kinds)["style"] == [("sentence", 4), ("short", 4)]
    assert ("turn", 7) in found.words
    assert dict(found.facts)["triplets"] == "8"
    assert sum(times for _, times in found.targets) == 8
    assert len(found.charts) == 4


def test_quality_is_the_share_of_the_judged_with_its_exact_interval(sides: tuple[Side, Side]) -> None:
    artifact = sides[0].with_file("verdicts.parquet")
    assert artifact is not None
    source = Source(artifact)
    asked = Question(sample=5, seed=1)
    assert quality(source, asked).sentence() == "None of the 5 triplets of the sample is judged yet."
    drawn = source.kept.page(source.kept.select(asked))
    for place, row in enumerate(drawn[:4]):
        source.curation.say(row, "ann", "reject" if place == 0 else "approve")
    found = quality(source, asked)
    assert (found.approved, found.rejected, found.left, found.share) == (3, 1, 1, 0.75)
    assert (found.low, found.high) == binomial_interval(3, 4)
    # Of 0 in 4 the upper end is where 4 failures have probability 2.5 %.
    assert binomial_interval(0, 4) == pytest.approx((0, 1 - 0.025**0.25))
