import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.__main__ import app
from flows.status import as_object
from flows.tables import console, score_tables, stage_table
from tasks.runs import RunError, RunRecord, StageRecord, load_run
from tests.flows.runs import run_toy

pytestmark = pytest.mark.usefixtures("store")


def printed(*tables: object) -> list[str]:
    stream = io.StringIO()
    for table in tables:
        console(stream).print(table)
    return stream.getvalue().splitlines()


def test_json_is_exactly_the_promised_object(store: Path) -> None:
    run_toy()
    run = run_toy(factor=3)
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert list(found) == ["run", "recipe", "stages", "scores", "report"]
    assert (found["run"], found["recipe"]) == (run, "toy")
    assert [(row["stage"], row["state"]) for row in found["stages"]] == [
        ("count", "cached"), ("double", "ran"), ("score", "ran")
    ]  # fmt: skip
    counted = found["stages"][0]
    seconds, artifact = counted.pop("seconds"), counted.pop("artifact")
    assert counted == {
        "stage": "count", "state": "cached", "read": 10, "kept": 5, "dropped": {"even": 5}, "written": 10
    }  # fmt: skip
    assert seconds >= 0
    assert Path(artifact).parent == store / "store" / "count"
    assert found["scores"][0] == {
        "method": "composed", "benchmark": "toys", "split": "val", "protocol": "{}", "metric": "recall@1",
        "value": 30.0, "low": 1.0, "high": 99.0, "queries": 500, "seeds": 3,
    }  # fmt: skip
    assert Path(found["report"]).read_text() == "<p>toys</p>"


def test_failed_run_shows_what_was_not_reached() -> None:
    with pytest.raises(RunError, match="stage 'count' failed: found 10 numbers, expected none"):
        run_toy(explode=True)
    found = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
    assert [row["state"] for row in found["stages"]] == ["failed", "pending", "pending"]
    assert (found["stages"][0]["read"], found["stages"][1]["dropped"]) == (None, {})
    assert (found["scores"], found["report"]) == ([], None)


def test_scores_of_a_run_that_stopped_before_them_are_none() -> None:
    run_toy()
    found = as_object(load_run(run_toy(until="double")))
    assert [row["state"] for row in found["stages"]] == ["cached", "cached", "pending"]
    assert (found["scores"], found["report"]) == ([], None)


def test_no_run_yet_is_said() -> None:
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == 1
    assert "no run yet" in result.stderr
    assert "python -m flows demo" in result.stderr


def test_status_shows_runs_stages_scores_and_report() -> None:
    ids = [run_toy(), run_toy(factor=3)]
    text = CliRunner().invoke(app, ["status"]).stdout
    assert all(run in text for run in ids)
    words = [line.split() for line in text.splitlines()]
    assert ["count", "cached", "10", "5", "even", "5", "10"] in [line[:7] for line in words]
    assert ["image_only", "12.3"] in words
    assert ["composed", "(mean", "of", "3)", "30.0"] in words
    assert "report.html" in text


def test_stage_table_keeps_to_100_columns_and_loses_no_reason() -> None:
    dropped = {f"long_reason_{number}": 10_000 + number for number in range(8)}
    row = StageRecord(
        stage="generate", state="interrupted", read=1281167, kept=1201139, dropped=dropped, written=1201139, seconds=1e5
    )
    record = RunRecord(run="r", recipe="mra_cir", started="", config={}, rerun=[], until=None, stages=[row])
    lines = printed(stage_table(record))
    assert max(map(len, lines)) <= 100
    assert all(f"{reason} {number:,}" in "\n".join(lines) for reason, number in dropped.items())


def test_score_tables_keep_to_100_columns_baselines_first() -> None:
    metrics = [*(f"recall@{k}" for k in (1, 5, 10, 50)), *(f"subset_recall@{k}" for k in (1, 2, 3))]
    row = {"benchmark": "tiny_single", "split": "val", "queries": 600, "seeds": 1}
    rows = [
        {**row, "method": method, "metric": metric, "value": 12.345, "seeds": 3 if method == "composed" else 1}
        for method in ("composed", "image_text", "image_only")
        for metric in metrics
    ]
    lines = printed(*score_tables(rows))
    assert max(map(len, lines)) <= 100
    assert lines[0].strip() == "tiny_single (val, 600 queries), percent"
    methods = [line.split()[0] for line in lines if "12.3" in line]
    assert methods == ["image_only", "image_text", "composed"]


def test_a_record_that_cannot_be_read_is_named_and_stops_only_what_needs_it(store: Path) -> None:
    good = run_toy()
    bad = store / "runs" / "20000101-000000-000"
    bad.mkdir()
    (bad / "run.json").write_text("{")
    shown = CliRunner().invoke(app, ["status"])
    assert (shown.exit_code, "unreadable" in shown.stdout) == (0, True)
    assert CliRunner().invoke(app, ["explain", "double"]).exit_code == 0
    for words in (["status", bad.name], ["store", "gc"], ["store", "ls"]):  # what it reaches is not known
        told = CliRunner().invoke(app, words)
        assert told.exit_code == 1
        assert told.stderr.startswith(f"error: {bad / 'run.json'} is damaged or of another version (Invalid JSON")
        assert told.stderr.endswith(f"; move {bad} out of the way\n")
    assert load_run(good).state == "completed"
