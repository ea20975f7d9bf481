"""Deployments: those that come with the repository, and one of the toy recipe on a schedule, nothing of it mocked."""

import importlib
import inspect
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.recipe import Recipe, recipe_names
from tasks.runs import load_run, recorded_runs

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))
def test_deployment_names_a_flow_and_parameters_that_it_takes(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters)
    recipe = getattr(sys.modules[module], "RECIPE", None)
    if isinstance(recipe, Recipe):
        recipe.config.model_validate(deployment["parameters"]["config"])
        assert recipe.check(None, deployment["parameters"]["rerun"], deployment["parameters"]["until"]) == []
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["work_pool"]["name"] == "local"


def test_every_recipe_is_deployed() -> None:
    deployed = {deployment["entrypoint"].split(".")[1] for deployment in DEPLOYMENTS}
    assert set(recipe_names()) <= deployed
    names = [deployment["name"] for deployment in DEPLOYMENTS]
    assert len(set(names)) == len(names)  # of two with one name the later would replace the other


class Operator:
    """Somebody at a terminal, with a Prefect of their own below `home`."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.api = f"http://127.0.0.1:{port}/api"
        self._stack = stack
        self._home = home
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(home), "PREFECT_MEMO_STORE_PATH": str(home / "memo.toml"), "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "TOY_GATE": str(home / "gate"),
        }  # fmt: skip
        home.mkdir()
        self.start("server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
        wait_until(self._answers)

    def start(self, *words: str) -> None:
        """Leave a command running until the end of the test."""
        log = self._stack.enter_context((self._home / f"{words[0]}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], cwd=ROOT, env=self._environment, stdout=log, stderr=log
        )
        self._stack.callback(end, process)

    def run(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=10):
                return True
        except OSError:
            return False


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 600
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def client_of(operator: Operator) -> Iterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: operator.api}), get_client(sync_client=True) as client:
        yield client


def states(run: str) -> list[str]:
    return [row.state for row in load_run(run).stages]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_scheduled_run_happens_is_cached_the_second_time_and_can_be_cancelled(store: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        operator = Operator(tmp_path / "operator", stack)
        gate = tmp_path / "operator" / "gate"
        gate.touch()
        operator.run("work-pool", "create", "toys", "--type", "process")
        deployments = tmp_path / "toys.yaml"
        deployments.write_text(TOYS)
        operator.run("deploy", "--all", "--prefect-file", str(deployments))
        operator.start("worker", "start", "--pool", "toys")
        with client_of(operator) as client:
            wait_until(lambda: any(one.status == "ONLINE" for one in client.read_workers_for_work_pool("toys")))
            deployment = client.read_deployment_by_name("toy/toy")
            first = schedule(client, deployment.id)
            wait_until(lambda: len(recorded_runs()) == 2 and load_run(recorded_runs()[1]).state == "completed")
            once, again = recorded_runs()
            # A worker takes up runs ten seconds ahead.
            assert datetime.fromisoformat(load_run(once).started) > first - timedelta(seconds=10)
            assert (states(once), states(again)) == (["ran"] * 3, ["cached"] * 3)
            shown = [task.state_name for task in tasks_of(client, "scheduled")]
            assert sorted(shown[:6]) == ["Cached"] * 3 + ["Completed"] * 3
            found = {artifact.key: artifact for artifact in client.read_latest_artifacts()}
            assert {"toy-count", "toy-stages", "toy-scores", "toy-report"} <= found.keys()
            assert Path(str(load_run(again).stages[2].artifact)).name in str(found["toy-report"].data)
            assert '"cached"' in str(found["toy-stages"].data)

            cancel_and_continue(client, deployment.id, gate, store)

            operator.run("work-pool", "create", "local", "--type", "process")
            operator.run("deploy", "--all")  # as docs/operate.md says, in the root of the repository
            check_shipped(client)


def check_shipped(client: Any) -> None:
    """What prefect.yaml holds is deployed, as it stands there."""
    shipped = {one.name: one for one in client.read_deployments() if one.work_pool_name == "local"}
    assert sorted(shipped) == sorted(one["name"] for one in DEPLOYMENTS)
    for one in DEPLOYMENTS:
        found = shipped[one["name"]]
        assert (found.entrypoint, found.parameters, found.tags) == (one["entrypoint"], one["parameters"], one["tags"])
        assert found.global_concurrency_limit.limit == 1
        step = "prefect.deployments.steps.set_working_directory"
        assert found.pull_steps == [{step: {"directory": str(ROOT)}}]
        assert [(due.schedule.cron, due.active) for due in found.schedules] == [
            (due["cron"], due["active"]) for due in one.get("schedules", [])
        ]


def cancel_and_continue(client: Any, deployment: Any, gate: Path, store: Path) -> None:
    """Cancel a run as the UI does, in the midst of a stage; another continues it."""
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelling

    gate.unlink()
    before = len(recorded_runs())
    parameters = {"config": {"count": {"upto": 12}}}
    cancelled = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    wait_until(lambda: list(store.glob("partial/count/*/part-2")))
    client.set_flow_run_state(cancelled.id, Cancelling(), force=True)
    wait_until(lambda: client.read_flow_run(cancelled.id).state_type == StateType.CANCELLED)
    wait_until(lambda: load_run(recorded_runs()[before]).state == "interrupted")
    assert states(recorded_runs()[before]) == ["interrupted", "pending", "pending"]
    gate.touch()
    client.create_flow_run_from_deployment(deployment, parameters=parameters)
    wait_until(lambda: len(recorded_runs()) > before + 1 and load_run(recorded_runs()[-1]).state == "completed")
    row = load_run(recorded_runs()[-1]).stages[0]
    assert row.state == "ran"
    calls = (store / str(row.artifact) / "calls").read_text().split()
    assert calls[:3] == list("012")  # by the run that was cancelled
    assert len(calls) <= 13  # and at most the part in hand a second time


def tasks_of(client: Any, what: str) -> list[Any]:
    """Task runs in the order of their start, as soon as those of the first two flow runs have ended."""
    for _ in range(600):
        found = sorted(client.read_task_runs(limit=50), key=lambda run: run.start_time or datetime.now(UTC))
        if len(found) >= 6 and all(run.state_type in ("COMPLETED", "CANCELLED") for run in found[:6]):
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: {[(run.name, run.state_name) for run in found]}")


def schedule(client: Any, deployment: Any) -> datetime:
    """Let the deployment run twice; when it is due first. A schedule in the file would be over before it is read."""
    from prefect.client.schemas.schedules import RRuleSchedule

    first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=15)
    rule = f"DTSTART:{first:%Y%m%dT%H%M%S}\nRRULE:FREQ=SECONDLY;INTERVAL=15;COUNT=2"
    client.create_deployment_schedules(deployment, [(RRuleSchedule(rrule=rule, timezone="UTC"), True)])
    return first


# A file like prefect.yaml, for the toy recipe.
TOYS = yaml.safe_dump(
    {
        "name": "toys",
        "pull": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        "deployments": [
            {
                "name": "toy",
                "entrypoint": "tests.flows.toy.toy",
                "parameters": {"config": {}},
                "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
                "work_pool": {"name": "toys", "job_variables": {}},
            }
        ],
    }
)
