import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data.artifact import MANIFEST, read_manifest
from flows.__main__ import app
from tasks.features import Features
from tasks.locks import hold
from tasks.runs import RunError, load_run, recorded_runs, start_run
from tasks.store import Slot
from tasks.upkeep import collect, holdings, wanted
from tests.flows.runs import run_toy
from tests.flows.toy import RECIPE, Toy


def called(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["store", *arguments])
    return result.exit_code, result.stdout, result.stderr


def stored(store: Path) -> dict[str, int]:
    """Number of sealed artifacts by stage."""
    names = [holding.stage for holding in holdings(store) if holding.kind == "store"]
    return {name: names.count(name) for name in sorted(set(names))}


def artifact(store: Path, run: str, stage: str) -> Path:
    return next(store / str(row.artifact) for row in load_run(run).stages if row.stage == stage)


def states(run: str) -> list[str]:
    return [row.state for row in load_run(run).stages]


def test_gc_keeps_what_the_last_runs_reach(store: Path) -> None:
    for factor in (2, 3, 4):
        run_toy(factor=factor)
    assert stored(store) == {"count": 1, "double": 3, "score": 3}
    code, out, _ = called("gc", "--keep", "1", "--dry-run")
    assert (code, out.count("would remove")) == (0, 4)
    assert stored(store) == {"count": 1, "double": 3, "score": 3}
    code, out, _ = called("gc", "--keep", "1")
    assert out.splitlines()[-1].endswith("in 4 folders; 3 are kept")
    assert stored(store) == {"count": 1, "double": 1, "score": 1}
    assert states(run_toy(factor=4)) == ["cached", "cached", "cached"]
    assert states(run_toy(factor=3)) == ["cached", "ran", "ran"]
    assert not any((store / "trash").iterdir())


def test_a_stage_without_artifacts_is_named(store: Path) -> None:
    assert called("ls")[0] == 0
    run_toy()
    code, _, err = called("ls", "duoble")
    assert (code, err) == (1, f"error: no artifact of a stage 'duoble' in {store}; did you mean 'double'?\n")
    code, out, _ = called("ls", "double", "--json")
    assert [row["stage"] for row in json.loads(out)] == ["double"]


def test_gc_counts_runs_by_recipe(store: Path) -> None:
    run_toy(factor=2)
    for _ in range(3):
        with start_run("another", [], Toy()):
            pass
    collect(store, keep=1, dry_run=False)
    assert stored(store) == {"count": 1, "double": 1, "score": 1}


def test_pin_keeps_an_artifact_with_all_it_was_made_from(store: Path) -> None:
    pinned, other = run_toy(upto=4), run_toy(upto=6)
    digits = artifact(store, pinned, "double").name[:8]
    code, out, _ = called("pin", f"double/{digits}")
    assert (code, out.startswith(f"pinned double-{digits}")) == (0, True)
    assert called("pin")[1].count("\n") == 1
    called("gc", "--keep", "0")
    assert stored(store) == {"count": 1, "double": 1}  # what it needs, not what needs it
    assert artifact(store, pinned, "count").exists()
    called("pin", other)
    assert called("unpin", f"double/{digits}")[0] == 0
    called("gc", "--keep", "0")
    assert stored(store) == {}  # the other run's artifacts were gone before it was pinned


def test_pin_of_a_run_and_mistyped_names(store: Path) -> None:
    run = run_toy()
    called("pin", run)
    collect(store, keep=0, dry_run=False)
    assert states(run_toy()) == ["cached", "cached", "cached"]
    code, _, err = called("pin", "duoble/12")
    assert (code, "0 artifacts fit 'duoble/12'" in err) == (1, True)
    assert "no run '2020'" in called("pin", "2020")[2]
    assert "0 pins fit '2020'" in called("unpin", "2020")[2]


def test_gc_leaves_what_a_run_in_progress_has_named(store: Path) -> None:
    """The second run has got as far as naming `double`; the last run of the recipe that counts is a later one."""
    run_toy(factor=2)
    done = load_run(recorded_runs()[-1])
    with start_run("toy", RECIPE.stage_names, Toy()) as running:
        row = running.begin("double")
        running.identify(row, str(done.stages[1].key), dict(done.stages[1].material or {}))
        run_toy(factor=3)
        collect(store, keep=1, dry_run=False)
        assert stored(store) == {"count": 1, "double": 2, "score": 1}
    collect(store, keep=1, dry_run=False)
    assert stored(store) == {"count": 1, "double": 1, "score": 1}


def test_gc_removes_an_attempt_that_nobody_continues_and_keeps_one_that_is_going_on(store: Path) -> None:
    with pytest.raises(RunError):
        run_toy(explode=True)
    kept = {holding.name for holding in holdings(store)}
    collect(store, keep=1, dry_run=False)  # the last run may be continued
    assert {holding.name for holding in holdings(store)} == kept == wanted(store, 1)
    (left,) = holdings(store)
    with hold(Slot(store, left.stage, left.key).lock, waiting=lambda holder: None):
        collect(store, keep=0, dry_run=False)
        assert len(holdings(store)) == 1
    collect(store, keep=0, dry_run=False)
    assert holdings(store) == []
    assert list((store / "partial" / "count").iterdir()) == []  # the note beside it went too


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("flip", "product has other bytes than were sealed"),
        ("cut", "product has 1 bytes, 2 were sealed"),
        ("delete", "product is missing"),
        ("add", "notes.txt was added after the sealing"),
        ("edit", "its manifest gives the key"),
        ("rename", "its manifest is of another key than its folder"),
    ],
)
def test_verify_names_what_is_wrong_and_discards_it_on_request(store: Path, harm: str, said: str) -> None:
    folder = artifact(store, run_toy(), "double")
    assert called("verify") == (0, "3 artifacts read, 0 damaged\n", "")
    if harm == "flip":
        (folder / "product").write_text("21")
    elif harm == "cut":
        (folder / "product").write_text("2")
    elif harm == "delete":
        (folder / "product").unlink()
    elif harm == "add":
        (folder / "notes.txt").write_text("mine")
    elif harm == "edit":
        manifest = read_manifest(folder)
        manifest["config"]["factor"] = 3
        (folder / MANIFEST).write_text(json.dumps(manifest))
    else:
        folder.rename(folder.with_name("0" * 20))
    code, out, err = called("verify")
    assert (code, f"double/{'0' * 12 if harm == 'rename' else folder.name[:12]}: {said}" in out) == (1, True)
    assert "store verify --discard" in err
    assert called("verify", "--discard")[0] == 1
    assert called("verify")[0] == 0
    assert states(run_toy()) == ["cached", "ran", "cached"]


def test_damage_that_the_size_does_not_show_does_not_spread(store: Path) -> None:
    folder = artifact(store, run_toy(factor=2), "double")
    (folder / "product").write_text("21")
    shutil.rmtree(artifact(store, recorded_runs()[-1], "score"))
    with pytest.raises(RunError, match=r"product, made by double, was damaged .* other bytes .* run the same command"):
        run_toy(factor=2)
    again = run_toy(factor=2)
    assert states(again) == ["cached", "ran", "ran"]
    assert artifact(store, again, "double").joinpath("product").read_text() == "20"


def test_verify_reads_the_ledger_and_the_features(store: Path) -> None:
    for name in ("ledger/m/p/1.parquet", "features/tokens-1/2.arrow"):
        (store / name).parent.mkdir(parents=True)
        (store / name).write_bytes(b"torn")
    code, out, _ = called("verify")
    assert code == 1
    assert "damaged: ledger/m/p/1.parquet: " in out
    assert "damaged: features/tokens-1/2.arrow: " in out
    assert "set aside: ledger/m/p/1.torn\n" in called("verify", "--discard")[1]
    assert called("verify") == (0, "0 artifacts read, 0 damaged\n", "")
    assert (store / "features/tokens-1/2.torn").read_bytes() == b"torn"


def test_verify_finds_a_flipped_bit_among_the_values_of_features(store: Path) -> None:
    for key in ("a", "b"):
        Features(store / "features/x").add([key], np.ones((1, 2, 3), dtype=np.float16))
    assert called("verify") == (0, "0 artifacts read, 0 damaged\n", "")
    part = sorted((store / "features/x").iterdir())[0]
    whole = bytearray(part.read_bytes())
    whole[whole.index(np.ones(6, dtype=np.float16).tobytes()) + 1] ^= 0x40  # 1.0 becomes infinite
    part.write_bytes(whole)
    code, out, _ = called("verify")
    assert code == 1
    assert f"damaged: features/x/{part.name}: {part} has other bytes than were written\n" in out
    assert out.endswith("0 artifacts read, 1 damaged\n")
    assert f"set aside: features/x/{part.stem}.torn\n" in called("verify", "--discard")[1]
    assert called("verify")[0] == 0


def test_ls_and_du_show_sizes_and_what_is_kept(store: Path) -> None:
    run_toy(factor=2)
    run_toy(factor=3)
    rows = json.loads(called("ls", "--keep", "1", "--json")[1])
    assert [(row["stage"], row["kept"]) for row in rows if row["stage"] != "score"] == [
        ("count", "yes"), *sorted([("double", "no"), ("double", "yes")], key=lambda row: row[1] != rows[1]["kept"])
    ]  # fmt: skip
    assert rows[0]["written"] == 10
    sizes = json.loads(called("du", "--json")[1])
    assert sizes["store/count"] == {"files": 12, "bytes": rows[0]["bytes"]}  # ten parts, their log, the manifest
    (store / "checkpoints/lavis-1").mkdir(parents=True)
    (store / "checkpoints/lavis-1/weights").write_bytes(bytes(1000))
    (store / "of another version").mkdir()
    (store / "of another version/1").write_bytes(bytes(10))
    (store / "of another version/2").write_bytes(bytes(5))
    measured = json.loads(called("du", "--json")[1])
    assert measured["checkpoints"] == {"files": 1, "bytes": 1000}
    assert measured["of another version"] == {"files": 2, "bytes": 15}
    assert sum(row["files"] for row in measured.values()) == sum(path.is_file() for path in store.rglob("*"))
    assert "store/count" in called("du")[1]
    shown = called("ls", "double")[1]
    assert "double/" in shown
    assert "count/" not in shown
    folder = json.loads(called("show", f"double/{rows[1]['key'][:8]}")[1])["folder"]
    assert Path(folder).name == rows[1]["key"]


def test_moved_store_keeps_every_hit(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_toy()
    called("pin", recorded_runs()[-1])
    shutil.copytree(store, tmp_path / "elsewhere")  # as to another machine
    shutil.rmtree(store)
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "elsewhere"))
    assert states(run_toy()) == ["cached", "cached", "cached"]
    assert called("verify")[0] == 0
    assert called("gc", "--keep", "0")[0] == 0
    assert stored(tmp_path / "elsewhere") == {"count": 1, "double": 1, "score": 1}


def test_store_that_cannot_keep_its_promises_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", "s3://bucket/cirque")
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 2
    assert "CIRQUE_HOME=s3://bucket/cirque is no folder" in result.stderr
    assert "locks" in result.stderr
