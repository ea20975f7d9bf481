"""The toy recipe as a Prefect flow."""

import time
from pathlib import Path
from uuid import UUID

import pytest

from tasks.runs import RunError, load_run
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


def test_wrong_stage_names_stop_the_flow_before_any_work(store: Path) -> None:
    with pytest.raises(ValueError, match="no stage 'cuont' to rerun; did you mean 'count'"):
        RECIPE.flow(config=Toy(), rerun=["cuont"])
    assert not (store / "runs").exists()
