"""The command as a user starts it: a process of its own, with a Prefect server of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from flows.__main__ import app, before_all
from flows.execute import checked, execute_recipe
from flows.overrides import ConfigError
from flows.recipe import load_recipe, recipe_names
from flows.server import LocalServer, local_server, settle_environment
from tasks.runs import load_run, recorded_runs
from tests.flows.runs import run_toy
from tests.flows.toy import RECIPE

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("store")


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def servers_of(parent: int) -> list[int]:
    """Process ids of the Prefect servers that a command has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        if "flows.server" in words and str(parent) in words:
            found.append(int(path.parent.name))
    return found


class Commands:
    """Starts the toy command; whatever still runs in the end is killed."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, gate: Path | None = None, **more: str) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | more
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.toy_command", *arguments],
            cwd=ROOT,
            env=environment | ({"TOY_GATE": str(gate)} if gate else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err


@pytest.fixture
def commands() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    for process in commands.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def states() -> list[str]:
    return [row.state for row in load_run(recorded_runs()[-1]).stages]


@pytest.mark.slow
def test_killed_stopped_finished_and_found_again(commands: Commands, store: Path) -> None:
    part = "partial/count/*/part-2"
    killed = commands.start(gate=store / "gate")
    wait_until(lambda: list(store.glob(part)))
    server = servers_of(killed.pid)
    assert len(server) == 1
    killed.kill()
    killed.wait(60)
    wait_until(lambda: not Path(f"/proc/{server[0]}").exists())  # nothing outlives the command
    assert states() == ["interrupted", "pending", "pending"]

    stopped = commands.start(gate=store / "gate")
    wait_until(lambda: len(recorded_runs()) == 2 and states()[0] == "running")
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130
    assert "interrupted in stage 'count'; run the same command again: it continues" in err
    assert states() == ["interrupted", "pending", "pending"]

    code, out, err = commands.run()
    assert (code, states()) == (0, ["ran", "ran", "ran"])
    calls = next(store.glob("store/count/*/calls")).read_text().split()
    assert calls[:3] == list("012")  # made once, by the first command
    assert sorted(set(calls)) == list("0123456789")
    assert "R@1" in out
    assert out.splitlines()[-1].startswith("report: ")
    assert err.splitlines()[0].startswith("count: ran, 10 rows in, 5 kept, 5 dropped (even 5), 10 written, ")
    assert len(err.splitlines()) == 3  # one line per stage, and none of Prefect's

    server_log = store / "prefect" / "server.log"
    started = server_log.stat().st_mtime_ns
    code, out, err = commands.run()
    assert (code, states()) == (0, ["cached", "cached", "cached"])
    assert server_log.stat().st_mtime_ns == started  # no server was needed, and none was started
    assert out.splitlines()[-1].startswith("report: ")
    assert [line.split(",")[0] for line in err.splitlines()] == ["count: cached", "double: cached", "score: cached"]


@pytest.mark.slow
def test_failure_ends_with_one_message_and_all_mistakes_come_before_work(commands: Commands, store: Path) -> None:
    code, out, err = commands.run("count.explode=true")
    assert code == 1
    folder = store / "runs" / recorded_runs()[-1]
    assert err.splitlines()[1:] == [
        "error: stage 'count' failed: found 10 numbers, expected none; use fewer",
        f"(full traceback: {folder / 'log.jsonl'})",
    ]
    assert "Traceback" not in out
    assert "Traceback" in (folder / "log.jsonl").read_text()

    code, out, err = commands.run("cuont.upto=3", "double.factor=0", "--rerun", "scroe")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: cuont.upto: there is no stage or field 'cuont'; did you mean 'count'?",
        "error: double.factor: input should be greater than 0, got '0'",
        "error: no stage 'scroe' to rerun; did you mean 'score'?",
    ]
    assert len(recorded_runs()) == 1


@pytest.mark.slow
def test_a_server_of_the_users_that_is_not_up_is_said_in_a_line(commands: Commands, store: Path) -> None:
    address = "http://127.0.0.1:9/api"
    code, out, err = commands.run(PREFECT_API_URL=address)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"error: your Prefect server cannot be used: Failed to reach API at {address}/ ([Errno 111]")
    assert "Start it with 'prefect server start', or correct PREFECT_API_URL" in err
    assert not (store / "runs").exists()


def test_a_server_that_does_not_start_is_said_in_a_line(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(typer.Exit) as info:
        execute_recipe(lambda: RECIPE, [], [], None)
    assert info.value.exit_code == 1
    log = store / "prefect" / "server.log"
    assert capsys.readouterr().err.startswith(
        f"error: the Prefect server that this command started ended; {log} says why. A server of your own is used"
    )
    assert log.is_file()


# Answers on the open socket that it is given, as flows.server does, and starts at once.
SMALL_SERVER = """
import http.server, socket, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Answer, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[-2]))
server.serve_forever()
"""


def test_a_server_that_died_refuses_and_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", {**os.environ})
    (tmp_path / "server.py").write_text(SMALL_SERVER)
    starter = tmp_path / "python"
    starter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/server.py" "$@"\n')
    starter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(starter))
    with local_server() as server:
        server.wait()
        address = urllib.parse.urlsplit(os.environ["PREFECT_API_URL"])
        assert server._process is not None
        with socket.create_connection((address.hostname, address.port), timeout=30):
            pass
        server._process.kill()
        server._process.wait()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.hostname, address.port), timeout=30)


def test_a_server_lost_during_a_run_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(**arguments: object) -> str:
        raise httpx.ConnectError("[Errno 111] Connection refused")  # as Prefect does when it reports the flow's end

    monkeypatch.setattr("flows.execute.local_server", lambda: nullcontext(LocalServer(None, "", Path("server.log"))))
    monkeypatch.setattr("flows.server._ask_users_server", lambda: None)
    with pytest.raises(typer.Exit) as info:
        execute_recipe(lambda: replace(RECIPE, flow=lost), [], [], None)
    assert info.value.exit_code == 1
    assert capsys.readouterr().err == (
        "error: Prefect's server was lost during the run ([Errno 111] Connection refused). What was finished is in the"
        " store: run the same command again\n"
    )


def test_all_mistakes_are_found_together() -> None:
    with pytest.raises(ConfigError) as info:
        checked(RECIPE, ["count.upto=x", "factor=3"], rerun=["score"], until="duoble")
    assert [problem.split(":")[0] for problem in info.value.problems] == [
        "factor",
        "count.upto",
        "no stage 'duoble' to stop after; did you mean 'double'?",
    ]


def test_mistyped_recipe_gets_a_suggestion_without_a_server(store: Path) -> None:
    result = CliRunner().invoke(app, ["run", "mra_cri"])
    assert result.exit_code == 2
    assert result.stderr == "error: no recipe 'mra_cri'; did you mean 'mra_cir'?\n"
    assert not (store / "prefect").exists()
    with pytest.raises(LookupError, match="did you mean 'tiny_models'"):
        load_recipe("tiny-model")


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("sample.high=200", "the window of sample ends at rank 200, but rank keeps 100 candidates; set rank.depth=200"),
        ("train.hard_negatives=2", "train.hard_negatives=2, but none are mined; set mine.count=2 or more"),
        ("encode.checkpoint=tiny_blip", "encode.checkpoint: no checkpoint 'tiny_blip': neither in models/checkpoints"),
        ("generate.model=/nowhere", "generate.model: no checkpoint '/nowhere': neither in models/checkpoints"),
        (
            'views=[{"encode": {"checkpoint": "clop"}, "sample": {"view": "clip"}}]',
            "views.encode.checkpoint: no checkpoint 'clop'",
        ),
    ],
)
def test_what_only_a_late_stage_would_find_is_found_before_work(assignment: str, problem: str) -> None:
    with pytest.raises(ConfigError) as info:
        checked(load_recipe("mra_cir"), [assignment], [], None)
    assert len(info.value.problems) == 1
    assert info.value.problems[0].startswith(problem)


def test_models_that_nothing_here_loads_may_have_any_name() -> None:
    servers = ["generate.backend=openai", "generate.model=served", "resources.endpoints=http://localhost:1/v1"]
    config = checked(load_recipe("mra_cir"), [*servers, "filter.judge.model=nothing"], [], None)
    assert config.model_dump()["generate"]["model"] == "served"


def test_a_filter_that_asks_a_server_needs_one_as_the_writer_does() -> None:
    with pytest.raises(ConfigError, match=r"filter\.judge: the backend 'openai' needs the address of a server"):
        checked(load_recipe("mra_cir"), ["filter.judge.on=true", "filter.judge.backend=openai"], [], None)


def test_an_estimate_has_an_end_of_its_own() -> None:
    result = CliRunner().invoke(app, ["run", "mra_cir", "--estimate", "--until", "train"])
    assert result.exit_code == 2
    assert result.stderr == "error: --estimate stops before `generate`; leave out --until\n"


def test_a_place_that_keeps_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, words, said in (
        (file, ["status"], f"CIRQUE_HOME={file} is a file; give a folder"),
        (file / "below", ["demo"], f"nothing can be kept in CIRQUE_HOME={file / 'below'}: there is a file at {file};"),
        (file / "below", ["store", "gc"], f"nothing can be kept in CIRQUE_HOME={file / 'below'}: there is a file at"),
    ):
        monkeypatch.setenv("CIRQUE_HOME", str(place))
        result = CliRunner().invoke(app, words)
        assert result.exit_code in (1, 2)
        assert result.stderr.startswith(f"error: {said}")
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "new" / "home"))
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)  # root may write anywhere
    result = CliRunner().invoke(app, ["run", "mra_cir"])
    assert result.exit_code == 2
    assert f"this user may not write to {tmp_path}; give another folder" in result.stderr
    assert CliRunner().invoke(app, ["status"]).stderr.startswith("error: no run yet in")
    assert not (tmp_path / "new").exists()


def test_recipes_are_the_files_that_define_one() -> None:
    assert {"mra_cir", "tiny_models"} <= set(recipe_names())
    assert not {"recipe", "__main__", "status"} & set(recipe_names())


def test_demo_takes_the_defaults() -> None:
    recipe = load_recipe("mra_cir")
    assert recipe.name == "mra_cir"
    assert recipe.stage_names == [
        *("ingest", "encode", "rank", "sample", "windows", "generate", "filter", "curate", "mine"),
        *("train", "evaluate", "report"),
    ]
    config = checked(recipe, [], [], None)
    assert config == recipe.config()
    listed = CliRunner().invoke(app, ["run", "mra_cir", "--fields"])
    assert "sample.low=51\nsample.high=60\n" in listed.stdout
    assert checked(recipe, listed.stdout.splitlines(), [], None) == config


def test_offline_is_settled_before_any_library_reads_it_and_no_hub_is_asked(store: Path) -> None:
    program = """
import os, socket, sys
asked = []
def refuse(*given, **more):
    asked.append(given)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import flows.__main__ as command
assert "huggingface_hub" not in sys.modules
command.app(["--offline", "status"], standalone_mode=False)
import huggingface_hub
from models.checkpoints import resolve
for ask in (resolve, huggingface_hub.model_info, lambda name: huggingface_hub.hf_hub_download(name, "config.json")):
    try:
        ask("nobody/nothing")
    except Exception as error:
        print(type(error).__name__)
print(asked, os.environ["TRANSFORMERS_OFFLINE"], os.environ["HF_DATASETS_OFFLINE"])
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    run_toy()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-4:] == ["LookupError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "[] 1 1"]


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for own, expected in (("ACTIVE", "ACTIVE"), (None, "PASSIVE")):
        settled = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        settled |= {"OMP_WAIT_POLICY": own} if own else {}
        monkeypatch.setattr(os, "environ", settled)
        before_all(typer.Context(typer.main.get_command(app)), offline=False)
        assert settled["OMP_WAIT_POLICY"] == expected


def test_prefect_stays_quiet_and_at_home_unless_the_user_says_otherwise(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_") or name == "DO_NOT_TRACK"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    settled: dict[str, str] = dict(os.environ)
    monkeypatch.setattr(os, "environ", settled)
    settle_environment()
    assert settled["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert settled["DO_NOT_TRACK"] == "1"
    assert settled["PREFECT_HOME"] == str(store / "prefect")
    assert settled["PREFECT_LOGGING_LEVEL"] == "DEBUG"
