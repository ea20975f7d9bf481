import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from data.artifact import MANIFEST, Artifact, Counts, read_table, write_table
from data.config import Resources, StageConfig
from data.keys import digest
from tasks.runs import RunError, load_run, recorded_runs
from tasks.stage import NO_FACTS, Stage, stage
from tasks.store import Slot, home
from tests.tasks import counting
from tests.tasks.counting import CountConfig, SumConfig, add, count, run_both

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "cirque"))
    return tmp_path / "cirque"


def make_count(offset: int = 0, batch_size: int = 64) -> Artifact:
    return count.make(CountConfig(offset=offset), resources=Resources(batch_size=batch_size)).artifact


def calls(artifact: Artifact) -> list[str]:
    return artifact.file("calls").read_text().split()


def states(run: str) -> list[str]:
    return [row.state for row in load_run(run).stages]


def test_first_call_runs_and_second_call_finds_the_artifact() -> None:
    first = count.make(CountConfig(), resources=Resources())
    second = count.make(CountConfig(), resources=Resources())
    assert (first.state, second.state) == ("ran", "cached")
    assert first.artifact == second.artifact
    assert calls(first.artifact) == list("012345")  # each part once, in two calls of the stage
    assert second.artifact.counts == Counts(read=6, kept=5, dropped={"last": 1}, written=6)


def test_key_is_the_digest_of_what_decides_the_result() -> None:
    material = {"stage": "count", "version": 1, "config": {"offset": 3}, "facts": {"parts": 6}, "inputs": {}}
    assert make_count(offset=3).key == digest(material)


def test_speed_settings_do_not_enter_the_key_and_deciding_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_count()
    assert make_count(batch_size=1).key == plain.key
    assert make_count(offset=1).key != plain.key
    assert Stage(count.fn, version=2, facts=None).make(CountConfig(), resources=Resources()).artifact.key != plain.key
    monkeypatch.setattr(counting, "PARTS", 5)
    assert make_count().key != plain.key


def test_another_input_gives_another_key() -> None:
    sums = [add.make(SumConfig(), make_count(offset)).artifact for offset in (0, 1)]
    assert sums[0].key != sums[1].key
    assert [source.file("sum").read_text() for source in sums] == ["15", "21"]  # 21 = 15 + 6 * 1
    assert sums[1].manifest["inputs"] == {"numbers": {"stage": "count", "key": make_count(1).key}}


@pytest.mark.parametrize("harm", ["delete a file", "shorten a file", "cut the manifest", "delete the manifest"])
def test_damaged_artifact_is_made_again(harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = make_count()
    if harm == "delete a file":
        artifact.file("3.txt").unlink()
    elif harm == "shorten a file":
        artifact.file("3.txt").write_text("")
    elif harm == "cut the manifest":
        text = artifact.file(MANIFEST).read_text()
        artifact.file(MANIFEST).write_text(text[: len(text) // 2])
    else:
        artifact.file(MANIFEST).unlink()
    again = count.make(CountConfig(), resources=Resources())
    assert again.state == "ran"
    assert again.reason.startswith("damaged")
    assert "damaged" in capsys.readouterr().out
    assert again.artifact.file("3.txt").read_text() == "3"
    assert count.make(CountConfig(), resources=Resources()).state == "cached"


def test_manifest_of_another_key_is_not_taken() -> None:
    artifact, other = make_count(0), make_count(1)
    shutil.copy(other.path / MANIFEST, artifact.path / MANIFEST)
    assert count.make(CountConfig(), resources=Resources()).reason.startswith("damaged: its manifest holds the key")


def test_store_may_be_moved(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = run_both()
    assert str(tmp_path) not in before["add"].artifact.file(MANIFEST).read_text()
    store.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "elsewhere"))
    run, after = run_both()
    assert states(run) == ["cached", "cached"]
    assert after["add"].artifact.path == tmp_path / "elsewhere" / before["add"].artifact.path.relative_to(store)


def test_failed_stage_continues_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_the_third(number: int) -> None:
        if number == 2:
            raise ValueError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(counting, "before_part", stop_at_the_third)
        with pytest.raises(RunError, match="stage 'count' failed: no power"):
            run_both()
    assert states(recorded_runs()[-1]) == ["failed", "pending"]
    run, outcomes = run_both()
    assert states(run) == ["ran", "ran"]
    assert calls(outcomes["count"].artifact) == list("0122345")  # 0 and 1 were done; 2 was begun twice


def test_parts_of_another_key_are_not_reused(store: Path) -> None:
    slot = Slot(store, "count", make_count(0).key)
    shutil.rmtree(slot.sealed)
    slot.partial.mkdir(parents=True)
    (slot.partial / "0.txt").write_text("999")  # nobody noted what this was made from
    assert make_count(0).file("0.txt").read_text() == "0"


def test_half_written_files_of_a_killed_process_are_not_sealed(store: Path) -> None:
    key = make_count(0).key
    slot = Slot(store, "count", key)
    shutil.rmtree(slot.sealed)
    slot.prepare({})
    (slot.partial / ".table.parquet.x1y2.tmp").write_text("half")
    (slot.partial / "0.txt").write_text("0")
    artifact = make_count(0)
    assert ".table.parquet.x1y2.tmp" not in artifact.manifest["files"]
    assert calls(artifact) == list("12345")  # part 0 was found


def test_damaged_part_of_an_earlier_attempt_makes_the_stage_begin_anew(capsys: pytest.CaptureFixture[str]) -> None:
    class TableConfig(StageConfig):
        pass

    schema = pa.schema([pa.field("number", pa.int64(), nullable=False)])
    obstacles = iter([ValueError("no power")])

    @stage()
    def tabulate(out: Path, config: TableConfig) -> Counts:
        part = out / "parts" / "0.parquet"
        if not part.exists():
            write_table(part, pa.table({"number": [1, 2]}, schema=schema), schema)
        for error in obstacles:
            raise error
        return Counts(read=2, kept=2, written=len(read_table(part, schema)))

    with pytest.raises(ValueError, match="no power"):
        tabulate.make(TableConfig())
    (part,) = home().glob("partial/tabulate/*/parts/0.parquet")
    part.write_bytes(part.read_bytes()[:100])
    assert tabulate.make(TableConfig()).artifact.counts.written == 2
    assert "tabulate: a part that an earlier attempt left is damaged" in capsys.readouterr().out


def test_rerun_makes_the_stage_and_all_that_follows_anew_and_nothing_before() -> None:
    run_both()
    first, outcomes = run_both(rerun=("add",))
    assert states(first) == ["cached", "ran"]
    assert outcomes["add"].reason == "it was asked for by --rerun"
    second, outcomes = run_both(rerun=("count",))
    assert states(second) == ["ran", "ran"]
    assert outcomes["add"].reason == "count was made anew by --rerun"
    third, _ = run_both()
    assert states(third) == ["cached", "cached"]


def test_old_artifact_is_valid_until_the_new_one_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, old = run_both()
    seen = []

    def fail(number: int) -> None:
        seen.append(old["count"].artifact.file("5.txt").read_text())
        raise ValueError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(counting, "before_part", fail)
        with pytest.raises(RunError):
            run_both(rerun=("count",))
    assert seen == ["5"]  # one part was begun, with the old artifact in place
    run, _ = run_both()
    assert states(run) == ["cached", "cached"]


def stopped_at(number: int, monkeypatch: pytest.MonkeyPatch, rerun: tuple[str, ...]) -> None:
    """Run both stages with power for so many parts."""

    def stop(part: int) -> None:
        if part == number:
            raise ValueError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(counting, "before_part", stop)
        with pytest.raises(RunError, match="no power"):
            run_both(rerun=rerun)


def test_interrupted_rerun_continues_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    run_both()
    stopped_at(2, monkeypatch, ("count",))
    stopped_at(4, monkeypatch, ("count",))
    run, outcomes = run_both(rerun=("count",))
    assert states(run) == ["ran", "ran"]
    assert calls(outcomes["count"].artifact) == list("01223445")  # 2 and 4 were begun twice, none was lost
    _, outcomes = run_both(rerun=("count",))
    assert calls(outcomes["count"].artifact) == list("012345")  # one that was not interrupted begins anew


def test_rerun_begins_anew_where_a_plain_run_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_at(2, monkeypatch, ())
    stopped_at(4, monkeypatch, ("count",))
    _, outcomes = run_both()
    assert calls(outcomes["count"].artifact) == list("0123445")  # from what --rerun left, as nothing else is there


def test_what_was_built_on_a_replaced_artifact_is_not_taken_for_good() -> None:
    """--rerun count gives other bytes under the same key and is then killed before `add` ran."""

    class SeedConfig(StageConfig):
        pass

    values = iter(["1", "2", "2"])

    @stage()
    def draw(out: Path, config: SeedConfig) -> Counts:
        (out / "0.txt").write_text(next(values))
        return Counts(read=1, kept=1, written=1)

    def sum_of(forced: bool) -> str:
        if forced:
            shutil.rmtree(draw.make(SeedConfig()).artifact.path)
        return add.make(SumConfig(), draw.make(SeedConfig()).artifact).artifact.file("sum").read_text()

    assert sum_of(forced=False) == "1"
    assert sum_of(forced=True) == "2"
    assert add.make(SumConfig(), draw.make(SeedConfig()).artifact).state == "cached"
    shutil.rmtree(draw.make(SeedConfig()).artifact.path)
    assert add.make(SumConfig(), draw.make(SeedConfig()).artifact).state == "cached"  # the same bytes came out


def test_kill_between_sealing_and_publishing_loses_nothing(store: Path) -> None:
    artifact = make_count()
    slot = Slot(store, "count", artifact.key)
    slot.partial.parent.mkdir(parents=True, exist_ok=True)
    slot.sealed.rename(slot.partial)
    assert calls(make_count()) == list("012345")  # no part was made a second time
    assert not slot.partial.exists()


def test_until_stops_after_the_stage() -> None:
    run, outcomes = run_both(until="count")
    assert states(run) == ["ran", "pending"]
    assert load_run(run).state == "completed"
    assert list(outcomes) == ["count"]


@pytest.mark.parametrize(
    ("rerun", "until", "message"),
    [
        (("cuont",), None, "no stage 'cuont' to rerun; did you mean 'count'?"),
        ((), "ad", "no stage 'ad' to stop after; did you mean 'add'?"),
        (("add",), "count", "'add' is to be rerun but comes after 'count'"),
    ],
)
def test_stages_that_do_not_exist_are_refused(rerun: tuple[str, ...], until: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        run_both(rerun=rerun, until=until)
    assert recorded_runs() == []


def spawn(gate: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.tasks.counting", str(gate)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, -2)])
def test_killed_stage_is_shown_interrupted_and_continues(
    store: Path, processes: list["subprocess.Popen[str]"], number: signal.Signals, code: int
) -> None:
    processes.append(spawn(store / "gate"))
    wait_until(lambda: list(store.glob("partial/count/*/2.txt")))
    run = recorded_runs()[-1]
    assert states(run) == ["running", "pending"]
    os.kill(processes[0].pid, number)
    assert processes[0].wait(timeout=60) == code
    assert states(run) == ["interrupted", "pending"]
    assert load_run(run).state == "interrupted"
    again, outcomes = run_both()
    assert states(again) == ["ran", "ran"]
    made = calls(outcomes["count"].artifact)
    assert made in (list("0123345"), list("012345"))  # only the part in hand may have been begun twice


def test_second_process_waits_and_takes_the_result(store: Path, processes: list["subprocess.Popen[str]"]) -> None:
    processes.append(spawn(store / "gate"))
    wait_until(lambda: list(store.glob("partial/count/*/2.txt")))
    processes.append(spawn(store / "gate"))
    assert processes[1].stderr is not None
    said = processes[1].stderr.readline()
    assert said == f"count: process {processes[0].pid} is making the same artifact; waiting for it\n"
    (store / "gate").touch()
    messages = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "waiting" not in messages[0]
    assert messages[1].startswith("count: cached, 6 rows in")  # it had said so once
    assert calls(make_count()) == list("012345")


def test_function_that_loses_rows_is_refused() -> None:
    @stage()
    def lose(out: Path, config: CountConfig) -> Counts:
        return Counts(read=10, kept=7, dropped={"blurred": 2}, written=7)

    with pytest.raises(ValueError, match=r"read 10, but kept 7 \+ dropped 2 = 9"):
        lose.make(CountConfig())


def test_function_gets_its_facts() -> None:
    @stage(facts=lambda config: {"doubled": config.offset * 2})
    def tell(out: Path, config: CountConfig, *, facts: "dict[str, int] | object" = NO_FACTS) -> Counts:
        (out / "facts.json").write_text(json.dumps(facts))
        return Counts(read=0, kept=0, written=0)

    assert tell.make(CountConfig(offset=4)).artifact.file("facts.json").read_text() == '{"doubled": 8}'


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="stage add: numbers is an Artifact, not str"):
        add.make(SumConfig(), "numbers")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the first parameters are out and config, not folder, config"):

        @stage()
        def wrong(folder: Path, config: CountConfig) -> Counts:
            return Counts(read=0, kept=0, written=0)


def test_log_has_one_line_per_stage(store: Path) -> None:
    run, outcomes = run_both()
    lines = [json.loads(line) for line in (store / "runs" / run / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["state"], line["read"]) for line in lines] == [("count", "ran", 6), ("add", "ran", 6)]
    assert lines[0]["dropped"] == {"last": 1}
    assert lines[1]["key"] == outcomes["add"].artifact.key


def test_failure_leaves_its_traceback_in_the_log(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise RuntimeError("broken pipe to nowhere")

    monkeypatch.setattr(counting, "before_part", fail)
    with pytest.raises(RunError, match="RuntimeError: broken pipe to nowhere") as info:
        run_both()
    (line,) = (info.value.folder / "log.jsonl").read_text().splitlines()
    assert "counting.py" in json.loads(line)["traceback"]
