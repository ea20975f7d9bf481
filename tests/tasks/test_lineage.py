"""Which artifact a run's name stands for."""

from pathlib import Path

import pytest

from data.artifact import Counts, seal
from tasks.lineage import find_with
from tasks.runs import RunRecord, StageRecord
from tasks.store import home


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))


def _run(name: str, *files: str) -> None:
    """Record a run with a stage for each file."""
    stages = []
    for place, file in enumerate(files):
        folder = home() / "store" / f"stage{place}" / name
        folder.mkdir(parents=True)
        (folder / file).write_text(file)
        seal(folder, Counts(read=1, kept=1, written=1), stage=f"stage{place}", config={"run": name})
        stages.append(StageRecord(stage=f"stage{place}", state="ran", artifact=str(folder.relative_to(home()))))
    record = RunRecord(run=name, recipe="mra_cir", started="", config={}, rerun=[], until=None, stages=stages)
    (home() / "runs" / name).mkdir(parents=True)
    (home() / "runs" / name / "run.json").write_text(record.model_dump_json())


def test_the_last_stage_with_the_file_is_taken() -> None:
    _run("1", "pairs", "triplets", "triplets", "report")
    assert find_with("1", "triplets").path == find_with(None, "triplets").path == home() / "store" / "stage2" / "1"


def test_a_run_without_the_file_names_one_with_it() -> None:
    _run("1", "triplets")
    _run("2", "triplets")
    _run("3", "pairs")
    with pytest.raises(LookupError, match=r"run 3 .* has no finished stage with triplets; the last .* is 2: name"):
        find_with(None, "triplets")
    (home() / "runs" / "2" / "run.json").write_text("{")
    with pytest.raises(LookupError, match="is 1: name it"):
        find_with(None, "triplets")
    with pytest.raises(LookupError, match=r"run 3 of mra_cir has no finished stage with scores$"):
        find_with("3", "scores")
