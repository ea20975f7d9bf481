"""Evaluations side by side: figures that can be checked by hand."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.artifact import Artifact, Counts, read_table, write_table
from data.schemas import SCORES, TESTS, VALUES
from tasks.compare import CompareConfig, Variant, compare
from tests.tasks.small_artifacts import sealed


def evaluation(folder: Path, name: str, worth: dict[str, list[list[float]]], queries: int = 4) -> Artifact:
    """Answers of methods to four queries, a list for each seed."""
    values, scores = [], []
    for method, runs in worth.items():
        for seed, run in enumerate(runs):
            values += [
                {
                    "method": method, "benchmark": "one", "seed": seed, "metric": "recall@1", "query_id": f"q{place}",
                    "tags": [], "value": value,
                }
                for place, value in enumerate(run[:queries])
            ]  # fmt: skip
        mean = 100 * sum(map(sum, runs)) / (len(runs) * len(runs[0]))
        for metric in ("recall@1", "recall@5", "recall@1/colour"):
            scores.append(
                {
                    "method": method, "benchmark": "one", "split": "val", "protocol": "{}", "metric": metric,
                    "value": mean, "low": mean - 1, "high": mean + 1, "queries": queries, "seeds": len(runs),
                }
            )  # fmt: skip
    out = folder / name
    write_table(out / "values.parquet", pa.Table.from_pylist(values, schema=VALUES), VALUES)
    write_table(out / "scores.parquet", pa.Table.from_pylist(scores, schema=SCORES), SCORES)
    return sealed(out, "evaluate", queries, config={"name": name})


def variant(label: str, source: str | None = "full", **fields: Any) -> Variant:
    return Variant(label=label, source=source, **{"method": "joint", **fields})


@pytest.fixture
def evaluations(tmp_path: Path) -> dict[str, Artifact]:
    return {
        "full": evaluation(tmp_path, "full", {"joint": [[1, 1, 1, 0], [1, 1, 0, 0]], "composed": [[1, 0, 0, 0]] * 2}),
        "less": evaluation(tmp_path, "less", {"joint": [[0, 0, 0, 0], [1, 0, 0, 0]]}),
    }


def run(out: Path, evaluations: dict[str, Artifact], *variants: Variant, **config: Any) -> Counts:
    out.mkdir(exist_ok=True)
    return compare.fn(out, CompareConfig(title="Parts", variants=variants, **config), evaluations)


def test_each_variant_is_compared_with_the_first(tmp_path: Path, evaluations: dict[str, Artifact]) -> None:
    out = tmp_path / "out"
    counts = run(
        out, evaluations,
        variant("whole", paper={"FIQ": 34.84}), variant("alone", method="composed"), variant("less", "less"),
        variant("other", None, note="set other.model"), tags=True,
    )  # fmt: skip
    assert (counts.read, counts.kept, counts.dropped) == (4, 3, {"not_made": 1})
    assert counts.detail == {"other": "set other.model"}
    rows = read_table(out / "tests.parquet", TESTS).to_pylist()
    # whole: (1, 1, 1/2, 0) a query, mean 62.5; alone: (1, 0, 0, 0), 25; less: (1/2, 0, 0, 0), 12.5
    assert [(row["method"], row["other"], row["difference"]) for row in rows] == [
        ("alone", "whole", -37.5),
        ("less", "whole", -50.0),
    ]
    # Queries differ by 0, 1, 1/2, 0: of the four patterns of signs two are as far out, so p is near a half.
    assert 0.4 < rows[0]["p"] < 0.6
    scores = read_table(out / "scores.parquet", SCORES).to_pylist()
    assert {row["method"]: row["value"] for row in scores if row["metric"] == "recall@1"} == {
        "whole": 62.5, "alone": 25.0, "less": 12.5,
    }  # fmt: skip
    text = (out / "table.md").read_text()
    assert "| whole | 62.5 [61.5, 63.5] | 34.84 |  |" in text
    assert "| alone | 25.0 [24.0, 26.0]; -37.5, p 0." in text
    assert "| other | not run |  | set other.model |" in text
    assert "one recall@1/colour" in text
    assert "recall@5" not in text  # not among what is tested
    page = (out / "report.html").read_text()
    assert "<h1>Parts</h1>" in page
    assert "://" not in page


def test_what_cannot_be_compared_is_refused(tmp_path: Path, evaluations: dict[str, Artifact]) -> None:
    with pytest.raises(ValueError, match="variant 'b' is of evaluation 'none'; there are full, less"):
        run(tmp_path / "out", evaluations, variant("a"), variant("b", "none"))
    with pytest.raises(ValueError, match="variant 'b' is of method 'joined'; the evaluation has joint, composed"):
        run(tmp_path / "out", evaluations, variant("a"), variant("b", method="joined"))
    short = {**evaluations, "less": evaluation(tmp_path, "short", {"joint": [[0, 0, 0, 0]]}, queries=3)}
    with pytest.raises(ValueError, match="'b' and 'a' answered other queries of one: 3 and 4"):
        run(tmp_path / "out", short, variant("a"), variant("b", "less"))
    with pytest.raises(ValueError, match="variants with different labels"):
        CompareConfig(title="t", variants=(variant("a"), variant("a")))
    with pytest.raises(ValueError, match="the first was made"):
        CompareConfig(title="t", variants=(variant("a", None),))


def test_a_row_may_be_compared_with_another_than_the_first(tmp_path: Path, evaluations: dict[str, Artifact]) -> None:
    out = tmp_path / "out"
    alone = variant("alone", method="composed", against="less")
    run(out, evaluations, variant("whole"), alone, variant("less", "less"))
    rows = read_table(out / "tests.parquet", TESTS).to_pylist()
    # As above: alone has 25, less 12.5, whole 62.5.
    assert [(row["method"], row["other"], row["difference"]) for row in rows] == [
        ("alone", "less", 12.5),
        ("less", "whole", -50.0),
    ]
    assert "difference to 'whole' and its p-value, but of 'alone' to 'less'" in (out / "table.md").read_text()
    for other in ("alone", "missing", "unmade"):
        given = (variant("whole"), variant("alone", against=other), variant("unmade", None))
        with pytest.raises(ValueError, match=f"'{other}', which is no other row that was made"):
            CompareConfig(title="t", variants=given)
    with pytest.raises(ValueError, match="the first row, 'whole', is compared with none"):
        CompareConfig(title="t", variants=(variant("whole", against="alone"), variant("alone")))


def test_evaluations_are_inputs_by_their_labels(
    tmp_path: Path, evaluations: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    config = CompareConfig(title="Parts", variants=(variant("whole"), variant("less", "less")))
    first = compare.make(config, evaluations)
    assert compare.make(config, evaluations).state == "cached"
    inputs = json.loads((first.artifact.path / "manifest.json").read_text())["inputs"]
    assert set(inputs) == {"evaluations/full", "evaluations/less"}
    other = {**evaluations, "less": evaluation(tmp_path, "other", {"joint": [[1, 1, 1, 1]] * 2})}
    assert compare.make(config, other).state == "ran"
    with pytest.raises(TypeError, match="evaluations is an Artifact, not dict"):
        compare.make(config, {"full": "text"})  # type: ignore[dict-item]


def test_scores_may_follow_a_number(tmp_path: Path, evaluations: dict[str, Artifact]) -> None:
    out = tmp_path / "out"
    evaluations["more"] = evaluation(tmp_path, "more", {"joint": [[1, 1, 1, 1]]})
    run(
        out, evaluations, variant("a", along=62.5), variant("b", "less", along=12.5), variant("c", "more", along=100.0),
        along="% right",
    )  # fmt: skip
    text = (out / "table.md").read_text()
    assert "| % right | note |" in text.splitlines()[2]
    assert "Correlation of % right with one recall@1 over 3 rows: 1.00 [" in text  # the numbers are the scores
