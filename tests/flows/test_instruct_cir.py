"""The recipe InstructCIR with a scripted writer and a small random MLLM: what its stages hand to each other."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from data.artifact import read_table
from data.schemas import TRIPLETS
from flows import instruct_cir
from flows.instruct_cir import InstructCir
from flows.overrides import configure
from models.encoders import load_encoder
from tasks.examples import Examples
from tasks.runs import RunRecord, load_run
from tasks.stage import Stage
from tasks.store import home
from tasks.templates import template_sets
from tasks.train import HISTORY
from tests.flows import stand_ins
from tests.models.tiny_llava import tiny_llava_folder
from tests.tasks.scripted_generate import small_model, use_scripted_backend

ADAPTER = "model.model.multi_modal_projector.linear_1.weight"
QUICK = ["epochs=1", "seeds=0", "batch_size=8", "dtype=float32", "validation_gallery=8"]


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *assignments: str) -> RunRecord:
    """Run it without Prefect; answers and scores are made up, training is real."""
    use_scripted_backend()
    monkeypatch.setattr(Stage, "__call__", lambda self, *args, **more: self.make(*args, **more).artifact)
    monkeypatch.setattr("flows.recipe.show_run", lambda *told: None)
    monkeypatch.setattr(instruct_cir, "evaluate", stand_ins.evaluate)
    given = [
        "ingest.images=16", f"embedder.checkpoint={tiny_llava_folder(folder / 'llava')}", "resources.device=cpu",
        "generate.backend=scripted", f"generate.model={small_model(folder / 'writer')}",
        *(f"{stage}.{one}" for stage in ("align", "instruct") for one in QUICK), *assignments,
    ]  # fmt: skip
    flow: Any = instruct_cir.RECIPE.flow
    return load_run(flow.fn(configure(InstructCir, given)))


def artifacts(record: RunRecord, stage: str) -> list[Path]:
    return [home() / row.artifact for row in record.stages if row.stage == stage and row.artifact]


@pytest.mark.usefixtures("store")
def test_both_stages_are_trained_and_the_second_goes_on_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a seed begins with ranks targets 100th, what it ends with first: so the last step is the one that is kept.
    whole, ranks = Examples.ranks, itertools.cycle((100.0, 1.0))
    monkeypatch.setattr(Examples, "ranks", lambda self, encoder: whole(self, encoder) * 0 + next(ranks))
    record = run(tmp_path, monkeypatch)
    assert {row.state for row in record.stages} == {"ran"}
    names = [row.stage for row in record.stages]
    assert sorted(set(names)) == ["embedder", "evaluate", "filter", "generate", "ingest", "report", "train"]
    assert names.count("train") == 3
    triplets = read_table(artifacts(record, "filter")[0] / "triplets.parquet", TRIPLETS).to_pylist()
    assert triplets
    assert all(row["negative_texts"] == [row["reference_caption"]] for row in triplets)
    aligned, trained, plain = artifacts(record, "train")
    for folder in (aligned, trained, plain):
        history = read_table(folder / "history.parquet", HISTORY).to_pylist()
        assert {row["seed"] for row in history} == {0}
    first, bare = (read_table(one / "history.parquet", HISTORY).to_pylist()[1]["loss"] for one in (trained, plain))
    assert first > bare  # the same step with more wrong answers
    one = load_encoder(str(trained / "seed-0"), "cpu")
    assert one.templates == template_sets()[0]  # type: ignore[attr-defined]
    # The second stage leaves tower and adapter as the first made them, and the first left the tower as it was.
    before, between = (load_encoder(str(path), "cpu") for path in (tmp_path / "llava", aligned / "seed-0"))
    assert before.tower_digest() == between.tower_digest() == one.tower_digest()
    adapters = [dict(encoder.trainable())[ADAPTER] for encoder in (before, between, one)]
    assert adapters[1].equal(adapters[2])
    assert not adapters[0].equal(adapters[1])
    again = run(tmp_path, monkeypatch)
    assert {row.state for row in again.stages} == {"cached"}


@pytest.mark.usefixtures("store")
def test_the_first_stage_can_have_images_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = f"backend=scripted model={small_model(tmp_path / 'writer')}".split()
    pairs = [
        "pairs.on=true",
        "pairs.ingest.images=20",
        "pairs.ingest.seed=1",
        *(f"pairs.caption.{one}" for one in writer),
    ]
    record = run(tmp_path, monkeypatch, "compare_negatives=false", "align.hard_negatives=0", *pairs)
    names = [row.stage for row in record.stages]
    assert names.count("ingest") == 2
    assert names.count("train") == 2
    rows = read_table(artifacts(record, "describe")[0] / "triplets.parquet", TRIPLETS).to_pylist()
    assert len(rows) == 20
    assert all(row["reference_caption"] and not row["modification"] for row in rows)


def test_a_seed_without_a_first_stage_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed 3 of instruct\.seeds is none of align\.seeds"):
        configure(InstructCir, ["instruct.seeds=0,3"])
