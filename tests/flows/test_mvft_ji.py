"""The recipe MVFT-JI with a scripted writer and the small BLIP-2: what its stages hand to each other."""

from pathlib import Path
from typing import Any

import pytest

from data.artifact import Artifact, read_table
from data.schemas import TRIPLETS
from flows import mvft_ji
from flows.mvft_ji import MvftJi
from flows.overrides import configure
from tasks.runs import load_run
from tasks.stage import Stage
from tasks.store import home
from tests.flows import stand_ins
from tests.tasks.scripted_generate import small_model, use_scripted_backend

QUICK = ["epochs=1", "seeds=0", "batch_size=8", "dtype=float32", "validation_gallery=8"]


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_single_images_become_a_retriever_that_is_measured_with_the_texts_of_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run it without Prefect; answers and scores are made up, encoding and training are real."""
    use_scripted_backend()
    monkeypatch.setattr(Stage, "__call__", lambda self, *args, **more: self.make(*args, **more).artifact)
    monkeypatch.setattr("flows.recipe.show_run", lambda *told: None)
    asked: list[Artifact | None] = []

    def evaluate(config: Any, trained: Artifact, tokens: Artifact, texts: Artifact | None, **more: Any) -> Artifact:
        asked.append(texts)
        return stand_ins.evaluate(config, trained, tokens, texts, **more)

    monkeypatch.setattr(mvft_ji, "evaluate", evaluate)
    given = [
        "ingest.images=24", "resources.device=cpu", "evaluate.benchmarks=tiny_multi", "generate.backend=scripted",
        f"generate.model={small_model(tmp_path / 'writer')}", *(f"train.{one}" for one in QUICK),
    ]  # fmt: skip
    flow: Any = mvft_ji.RECIPE.flow
    record, again = (load_run(flow.fn(configure(MvftJi, given))) for _ in range(2))
    assert {row.state for row in record.stages} == {"ran"}
    assert {row.state for row in again.stages} == {"cached"}
    made = {row.stage: home() / str(row.artifact) for row in record.stages}
    assert set(made) == {stage.name for stage in mvft_ji.RECIPE.stages}
    triplets = read_table(made["curate"] / "triplets.parquet", TRIPLETS).to_pylist()
    assert triplets
    assert all(row["target_id"] is None and row["target_text"] and row["reference_caption"] for row in triplets)
    assert (made["train"] / "seed-0" / "model.safetensors").exists()
    assert [one is not None and one.path == made["query_texts"] for one in asked] == [True, True]
    page = (made["report"] / "report.html").read_text()
    assert triplets[0]["target_text"] in page
    assert "joint" in page
