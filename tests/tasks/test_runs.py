import json
import logging
from pathlib import Path

import pytest

from data.artifact import Counts
from data.config import StageConfig
from tasks.runs import (
    NotStored,
    RunError,
    describe,
    from_store,
    load_run,
    recorded_runs,
    start_run,
    started_here,
    stop_before,
)
from tasks.stage import stage
from tests.flows.runs import run_toy
from tests.flows.toy import Toy, toy


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))
    return tmp_path


class Settings(StageConfig):
    depth: int = 100


def test_ids_sort_by_time_even_within_a_millisecond() -> None:
    ids = []
    for _ in range(5):
        with start_run("toy", ["a"], Settings()) as run:
            ids.append(run.id)
    assert recorded_runs() == sorted(ids) == ids
    assert started_here()[-5:] == ids


def test_record_says_what_was_asked_for() -> None:
    with start_run("toy", ["a", "b"], Settings(depth=7), rerun=["a"], until="b") as run:
        pass
    record = load_run(run.id)
    assert (record.recipe, record.state, record.config) == ("toy", "completed", {"depth": 7})
    assert (record.rerun, record.until) == (["a"], "b")
    assert [row.state for row in record.stages] == ["pending", "pending"]
    assert record.started <= str(record.ended)


def test_record_says_what_it_ran_on_and_no_secret(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with start_run("toy", ["a"], Settings()) as run:
        pass
    found = load_run(run.id).machine
    assert found["packages"]["prefect"].startswith("3.")
    assert found["environment"]["OMP_NUM_THREADS"] == "3"
    assert all(found[name] for name in ("python", "system", "cpus", "processor", "memory", "disk_free", "pid"))
    assert {"commit", "gpus", "memory_available"} <= found.keys()
    assert "hf_secret" not in (store / "runs" / run.id / "run.json").read_text()


def test_run_of_a_living_process_is_running() -> None:
    with start_run("toy", ["a"], Settings()) as run:
        assert load_run(run.id).state == "running"


def test_error_outside_a_stage_is_logged_too(store: Path) -> None:
    with (
        pytest.raises(RunError, match="recipe 'toy' failed: ZeroDivisionError") as info,
        start_run("toy", ["a"], Settings()),
    ):
        _ = 1 / 0
    (line,) = (info.value.folder / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["stage"] is None
    assert "ZeroDivisionError" in json.loads(line)["traceback"]
    assert load_run(info.value.record.run).state == "failed"


def test_messages_of_libraries_go_to_the_run_s_folder(store: Path) -> None:
    with start_run("toy", ["a"], Settings()) as run:
        logging.getLogger("library").warning("mind the gap")
    logging.getLogger("library").warning("afterwards")
    text = (store / "runs" / run.id / "messages.log").read_text()
    assert "WARNING library: mind the gap" in text
    assert "afterwards" not in text


def test_unknown_run_is_named() -> None:
    with start_run("toy", ["a"], Settings()) as run:
        pass
    with pytest.raises(LookupError, match=f"no run '{run.id}x' in .*; did you mean '{run.id}'"):
        load_run(f"{run.id}x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("need low <= high"), "need low <= high"),
        (KeyError("no benchmark 'circ'"), "no benchmark 'circ'"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), "[Errno 2] No such file or directory: 'a.png'"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_errors_in_words(error: Exception, words: str) -> None:
    assert describe(error) == words


def test_a_flow_is_left_before_the_stage_that_is_awaited() -> None:
    with stop_before("double") as awaited:
        run = run_toy(upto=4, factor=3)
    record = load_run(run)
    assert (record.state, [row.state for row in record.stages]) == ("completed", ["ran", "pending", "pending"])
    assert awaited.arguments is not None
    assert awaited.arguments["config"].factor == 3
    assert awaited.arguments["numbers"].stage == "count"
    assert [row.state for row in load_run(run_toy(upto=4, factor=3)).stages] == ["cached", "ran", "ran"]


def test_run_from_the_store_needs_no_prefect_and_never_was_if_something_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with from_store(), pytest.raises(NotStored, match="count"):
        toy.fn(config=Toy())
    assert recorded_runs() == []
    run_toy(upto=4)
    capsys.readouterr()
    with from_store():
        run = toy.fn(config=Toy.model_validate({"count": {"upto": 4}}))  # a task would need a flow, or a server
        assert capsys.readouterr().err.count(": cached, ") == 3
        with pytest.raises(NotStored, match="double"):
            toy.fn(config=Toy.model_validate({"count": {"upto": 4}, "double": {"factor": 3}}))
        assert capsys.readouterr().err == ""  # what was found is told by the run that does the work
        part = toy.fn(config=Toy.model_validate({"count": {"upto": 4}, "double": {"factor": 3}}), until="count")
    assert [row.state for row in load_run(run).stages] == ["cached"] * 3
    assert [row.state for row in load_run(part).stages] == ["cached", "pending", "pending"]
    assert [run, part] == recorded_runs()[1:] == started_here()[-2:]


def test_run_from_the_store_leaves_what_may_pass_to_one_that_tries_again() -> None:
    errors: list[Exception] = [ValueError("no such folder"), ConnectionError("the hub is gone")]

    @stage(facts=lambda config: {} if not errors else throw(errors.pop()))
    def look(out: Path, config: StageConfig) -> Counts:
        return Counts(read=0, kept=0, written=0)

    def run() -> None:
        with from_store(), start_run("toy", ["look"], Settings()):
            look(Settings())

    with pytest.raises(NotStored, match="look"):
        run()
    assert recorded_runs() == []
    with pytest.raises(RunError, match="stage 'look' failed: no such folder"):  # this will not pass
        run()


def throw(error: Exception) -> dict[str, int]:
    raise error


def test_stage_that_a_signal_met_before_its_work_is_interrupted() -> None:
    def stopped() -> None:
        with start_run("toy", ["a", "b"], Settings()) as run:
            run.begin("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    record = load_run(recorded_runs()[-1])
    assert (record.state, [row.state for row in record.stages]) == ("interrupted", ["interrupted", "pending"])
    assert record.stages[0].error == "KeyboardInterrupt"
