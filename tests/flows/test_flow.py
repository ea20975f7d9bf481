"""The toy recipe as a Prefect flow."""

import time
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow

from data.artifact import Counts
from tasks.runs import RunError, load_run, start_run
from tasks.stage import stage
from tests.flows.toy import RECIPE, CountConfig, Toy, toy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server", "store")]


def states(run: str) -> list[str]:
    return [row.state for row in load_run(run).stages]


def task_states(flow_run: UUID | None, number: int) -> dict[str, str]:
    """Names of the states that Prefect shows, by task; it learns of them a little later."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    assert flow_run is not None
    with get_client(sync_client=True) as client:
        for _ in range(600):
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
            names = {run.name: run.state_name or "" for run in found}
            if len(names) == number and not {"Pending", "Running"} & set(names.values()):
                return names
            time.sleep(0.2)
    raise AssertionError(f"Prefect shows {names}")


def test_prefect_shows_what_the_store_had_as_cached() -> None:
    first = toy(config=Toy(), return_state=True)
    second = toy(config=Toy(), return_state=True)
    assert states(first.result()) == ["ran", "ran", "ran"]
    assert states(second.result()) == ["cached", "cached", "cached"]
    assert set(task_states(first.state_details.flow_run_id, 3).values()) == {"Completed"}
    assert task_states(second.state_details.flow_run_id, 3) == dict.fromkeys(("count", "double", "score"), "Cached")


def test_parameters_come_as_json_from_a_worker() -> None:
    run = RECIPE.flow(config={"count": {"upto": 4}}, rerun=["count"], until="double")
    assert states(run) == ["ran", "ran", "pending"]
    assert load_run(run).config["count"]["upto"] == 4
    with pytest.raises(RunError, match="stage 'count' failed: found 3 numbers"):
        RECIPE.flow(config=Toy(count=CountConfig(upto=3, explode=True)))


def test_what_may_pass_is_tried_again_and_what_cannot_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.stage.RETRY_SECONDS", (0.1, 0.1))
    errors: list[Exception] = [ConnectionError("no route"), TimeoutError("slow")]

    @stage()
    def ask(out: Path, config: CountConfig) -> Counts:
        if errors:
            raise errors.pop()
        return Counts(read=0, kept=0, written=0)

    @flow
    def asking(upto: int) -> str:
        with start_run("asking", ["ask"], Toy()) as run:
            ask(CountConfig(upto=upto))
        return run.id

    row = load_run(asking(1)).stages[0]
    assert (row.state, row.attempts, row.error) == ("ran", 3, None)
    errors.append(ValueError("low > high"))
    with pytest.raises(RunError, match="stage 'ask' failed: low > high") as info:
        asking(2)
    assert info.value.record.stages[0].attempts == 1


def test_progress_counts_and_report_are_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client

    monkeypatch.setattr("tasks.shown.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("tasks.shown.PAUSES", 0)
    run = toy(config=Toy(count=CountConfig(upto=7)))
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_latest_artifacts()}
    assert found["toy-count-progress"].data == 100.0
    assert found["toy-count-progress"].description == "count: 7 of 7 rows"
    assert '"dropped: even", "value": 4' in str(found["toy-count"].data)
    assert "image_only" in str(found["toy-scores"].data)
    assert str(load_run(run).stages[2].artifact) in str(found["toy-report"].data)


def test_wrong_stage_names_stop_the_flow_before_any_work(store: Path) -> None:
    with pytest.raises(ValueError, match="no stage 'cuont' to rerun; did you mean 'count'"):
        RECIPE.flow(config=Toy(), rerun=["cuont"])
    assert not (store / "runs").exists()
