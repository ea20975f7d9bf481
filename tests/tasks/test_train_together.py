"""Two processes that train one network: the history of one process, and one's refusal told by name."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from data.artifact import Artifact, read_table
from data.config import Resources
from models.objectives import Batch
from models.training import Trainer
from tasks.embedder import Instruct, Lora
from tasks.train import HISTORY, TrainConfig, train, train_facts
from tests.models.tiny_llava import tiny_llava_folder
from tests.models.together import assert_equal
from tests.tasks.test_train import inputs

SETTINGS: dict[str, Any] = {
    "seeds": (0,), "epochs": 1, "batch_size": 22, "learning_rate": 3e-3, "dtype": "float32", "cached_rows": 11,
}  # fmt: skip


def run(out: Path, artifacts: dict[str, Artifact], processes: int, sharded: bool = False, **changes: Any) -> Path:
    return train_as(TrainConfig(**(SETTINGS | changes)), out, artifacts, processes, sharded)


def train_as(
    config: TrainConfig, out: Path, artifacts: dict[str, Artifact], processes: int, sharded: bool = False
) -> Path:
    resources = Resources(batch_size=8, workers=1, device="cpu", processes=processes, sharded=sharded)
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


@pytest.mark.slow
def test_processes_that_share_an_mllm_go_on_from_where_one_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process takes a step and dies; two, each with a part of the weights, take the second as the one would."""
    artifacts = inputs(tmp_path, tiny_llava_folder(tmp_path / "llava"))
    config = Instruct(
        **SETTINGS, losses=("composed_image",), hard_negatives=0, templates="fixed", lora=Lora(rank=4), save_every=1
    )
    alone = train_as(config, tmp_path / "alone", artifacts, 1)
    out, step = tmp_path / "out", Trainer.step

    def die(self: Trainer, number: int, batch: Batch, rate: float) -> float:
        if number == 1:
            raise KeyboardInterrupt
        return step(self, number, batch, rate)

    monkeypatch.setattr(Trainer, "step", die)
    with pytest.raises(KeyboardInterrupt):
        train_as(config, out, artifacts, 1)
    assert (out / "state-0.pt").exists()
    train_as(config, out, artifacts, 2, sharded=True)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in alone.iterdir())
    one, two = (read_table(folder / "history.parquet", HISTORY).to_pylist() for folder in (alone, out))
    assert [row["step"] for row in two] == [row["step"] for row in one] == [0, 1, 2]
    for name in ("loss", "val_recall@1", "val_recall@10", "temperature"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-4), name
    whole, parts = (load_file(folder / "seed-0" / "model.safetensors") for folder in (alone, out))
    assert_equal(parts, whole)


def test_shares_must_be_even(tmp_path: Path) -> None:
    artifacts = inputs(tmp_path)
    with pytest.raises(ValueError, match="a batch of 22 triplets cannot be shared evenly by 3 processes"):
        run(tmp_path / "out", artifacts, 3)
