"""Several processes that train one network, or each its own: the history of one process, and one's refusal by name."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tasks.train_room
from data.artifact import Artifact, read_table
from data.progress import reporting_to
from models.objectives import Batch
from models.training import Trainer
from tasks.embedder import Instruct, Lora
from tasks.features import pictures
from tasks.train import HISTORY, TrainConfig, seed_starts, split_of, train, train_facts
from tasks.train_room import room_for, threads_for
from tests.models.tiny_llava import tiny_llava_folder
from tests.models.together import assert_equal
from tests.tasks.test_train import RESOURCES, inputs

SETTINGS: dict[str, Any] = {
    "seeds": (0,), "epochs": 1, "batch_size": 22, "learning_rate": 3e-3, "dtype": "float32", "cached_rows": 11,
}  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums round differently on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Steps:
    """A reporter that keeps what it is told of steps."""

    def __init__(self, told: list[int]) -> None:
        self._told = told

    @contextmanager
    def phase(self, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
        yield self._told.append if unit == "steps" else lambda units: None


def run(out: Path, artifacts: dict[str, Artifact], processes: int, sharded: bool = False, **changes: Any) -> Path:
    return train_as(TrainConfig(**(SETTINGS | changes)), out, artifacts, processes, sharded)


def train_as(
    config: TrainConfig,
    out: Path,
    artifacts: dict[str, Artifact],
    processes: int,
    sharded: bool = False,
    at_once: int | None = None,
) -> Path:
    settings: dict[str, Any] = {"processes": processes, "sharded": sharded, "seeds_at_once": at_once}
    resources = RESOURCES.model_copy(update=settings)
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


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_seeds_side_by_side_are_those_that_were_trained_one_by_one(tmp_path: Path) -> None:
    artifacts = inputs(tmp_path)
    config = TrainConfig(**(SETTINGS | {"seeds": (0, 1, 2), "cached_rows": None, "dropout": 0.2}))
    apart, one_by_one = tmp_path / "apart", tmp_path / "one_by_one"
    told: list[int] = []
    with reporting_to(Steps(told)):
        train_as(config, apart, artifacts, 1, at_once=2)
    train_as(config, one_by_one, artifacts, 1, at_once=1)
    assert sum(told) == 3 * 2
    assert sorted(path.name for path in apart.iterdir()) == sorted(path.name for path in one_by_one.iterdir())
    assert read_table(apart / "history.parquet", HISTORY).equals(read_table(one_by_one / "history.parquet", HISTORY))
    for seed in config.seeds:
        found, wanted = (load_file(out / f"seed-{seed}" / "model.safetensors") for out in (apart, one_by_one))
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


KILLED = """
import sys
from pathlib import Path
from tests.tasks import test_train, test_train_together as own
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = own.TrainConfig(**(own.SETTINGS | {"seeds": (0, 1), "epochs": 10_000, "save_every": 1}))
    own.train_as(config, folder / "out", test_train.inputs(folder), 1, at_once=2)
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Also where SIGINT is ignored, as in the background of a shell."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    ignoring = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], preexec_fn=ignoring, env=environment)
    try:
        _wait(lambda: all((tmp_path / "out" / f"state-{seed}.pt").exists() for seed in (0, 1)))
        children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        assert len(children) >= 2
    finally:
        parent.kill()
        parent.wait()
    _wait(lambda: not any(_alive(pid) for pid in children))


def _wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.2)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[-1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_what_one_seed_refuses_stops_all_and_keeps_its_words(tmp_path: Path) -> None:
    artifacts = inputs(tmp_path)
    changes = {"seeds": (0, 1), "learning_rate": 1e30, "warmup": 0.0, "epochs": 9}
    with pytest.raises(ValueError, match=r"seed [01], step \d+: .*Try a lower learning_rate"):
        train_as(TrainConfig(**(SETTINGS | changes)), tmp_path / "out", artifacts, 1, at_once=2)


def test_as_many_seeds_at_once_as_cores_and_memory_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = inputs(tmp_path)
    config = TrainConfig(**(SETTINGS | {"seeds": (0, 1, 2), "epochs": 20}))  # 120 steps
    begun = seed_starts(
        config, split_of(config, artifacts["triplets"], pictures(artifacts["images"])), artifacts["images"],
        artifacts["tokens"], None, RESOURCES,
    )(0)  # fmt: skip

    def count(seeds: int = 3, settings: TrainConfig = config, **resources: Any) -> int:
        return room_for(tmp_path, settings, *begun, "float32", seeds, RESOURCES.model_copy(update=resources))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(tasks.train_room, "available_memory", lambda: None)
    assert count() == 3
    assert count(seeds=9) == 4
    assert count(seeds_at_once=2) == 2
    assert count(processes=2) == 1
    assert count(settings=config.model_copy(update={"epochs": 2})) == 1, "12 steps are not worth a process"
    monkeypatch.setattr(tasks.train_room, "available_memory", lambda: 2 * 10**9 + 10**8)
    assert count() == 2
    monkeypatch.setattr(tasks.train_room, "available_memory", lambda: 10**6)
    assert count() == 1
    monkeypatch.setattr(tasks.train_room, "available_memory", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert count() == 1


def test_a_seed_is_trained_with_as_many_threads_alone_as_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(**(SETTINGS | {"seeds": (0, 1, 2), "epochs": 20}))
    for cores, threads in ((1, 1), (2, 1), (8, 2)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert threads_for(config, [44], RESOURCES) == threads
        assert threads_for(config.model_copy(update={"seeds": (0,)}), [44], RESOURCES) == cores


def test_shares_must_be_even(tmp_path: Path) -> None:
    artifacts = inputs(tmp_path)
    with pytest.raises(ValueError, match="a batch of 22 triplets cannot be shared evenly by 3 processes"):
        run(tmp_path / "out", artifacts, 3)
