"""Checkpoints by the name of the run that trained them."""

from pathlib import Path

import pytest

from data.artifact import write_json
from tasks.runs import RunRecord, StageRecord
from tasks.trained import checkpoint_of


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))
    for seed in (0, 3):
        (tmp_path / f"store/train/abc/seed-{seed}").mkdir(parents=True)
    for run, artifact in (("20261121-100000-000", "store/train/abc"), ("20261121-110000-000", None)):
        record = RunRecord(
            run=run, recipe="mra_cir", state="completed", started="2026-11-21T10:00:00", config={}, rerun=[],
            until=None, stages=[StageRecord(stage="train", artifact=artifact)],
        )  # fmt: skip
        (tmp_path / "runs" / run).mkdir(parents=True)
        write_json(tmp_path / "runs" / run / "run.json", record.model_dump(mode="json"))
    return tmp_path


def test_a_run_stands_for_its_first_seed_or_the_one_named(store: Path) -> None:
    folder = store / "store" / "train" / "abc"
    assert checkpoint_of("20261121-100000-000") == str(folder / "seed-0")
    assert checkpoint_of("20261121-100000-000/seed-3") == str(folder / "seed-3")


def test_other_names_stay_as_they_are(store: Path) -> None:
    for name in ("tiny_blip2", "Salesforce/blip2-itm-vit-g", str(store)):
        assert checkpoint_of(name) == name
    with pytest.raises(LookupError, match="no checkpoint '20261121-120000-000'"):
        checkpoint_of("20261121-120000-000")


def test_a_run_without_the_checkpoint_says_so(store: Path) -> None:
    with pytest.raises(LookupError, match="trained no checkpoint; let it run"):
        checkpoint_of("20261121-110000-000")
    with pytest.raises(LookupError, match="trained no 'seed-1'; there is seed-0, seed-3"):
        checkpoint_of("20261121-100000-000/seed-1")
