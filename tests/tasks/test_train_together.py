"""Two processes that train one network: the history of one process, and one's refusal told by name."""

from pathlib import Path
from typing import Any

import pytest

from data.artifact import Artifact, read_table
from data.config import Resources
from tasks.train import HISTORY, TrainConfig, train, train_facts
from tests.tasks.test_train import inputs

SETTINGS: dict[str, Any] = {
    "seeds": (0,), "epochs": 1, "batch_size": 22, "learning_rate": 3e-3, "dtype": "float32", "cached_rows": 11,
}  # fmt: skip


def run(out: Path, artifacts: dict[str, Artifact], processes: int, **changes: Any) -> Path:
    config = TrainConfig(**(SETTINGS | changes))
    resources = Resources(batch_size=8, workers=1, device="cpu", processes=processes)
    out.mkdir(parents=True, exist_ok=True)
    train.fn(out, config, **artifacts, facts=train_facts(config, **artifacts), resources=resources)
    return out


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    artifacts = inputs(tmp_path)
    one, two = (run(tmp_path / str(count), artifacts, count, dropout=0.2) for count in (1, 2))
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    alone, together = (read_table(out / "history.parquet", HISTORY).to_pylist() for out in (one, two))
    assert [row["step"] for row in together] == [row["step"] for row in alone] == [0, 1, 2]
    # Each half of a batch is one pass of cached gradients in both runs, and so has the same dropout.
    for name in ("loss", "val_recall@1", "val_recall@10", "temperature"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], abs=1e-4), name


def test_shares_must_be_even(tmp_path: Path) -> None:
    artifacts = inputs(tmp_path)
    with pytest.raises(ValueError, match="a batch of 22 triplets cannot be shared evenly by 3 processes"):
        run(tmp_path / "out", artifacts, 3)
