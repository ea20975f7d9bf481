"""Train: what it writes, that a kill changes nothing, and what stops it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.artifact import Artifact, Counts, read_table, write_table
from data.config import Resources
from data.schemas import TRIPLETS
from models import training
from models.checkpoints import resolve
from models.encoders.blip2 import Blip2Encoder
from models.objectives import Batch, RetrievalLoss
from tasks.examples import Examples
from tasks.features import Features, compute, pictures
from tasks.splits import split_triplets
from tasks.train import HISTORY, TrainConfig, base_encoder, train, train_facts
from tests.models.tiny_blip2 import noise_images, tiny_checkpoint, tiny_encoder
from tests.tasks.small_artifacts import images_artifact, sealed, triplets_artifact

RESOURCES = Resources(batch_size=8, workers=1, device="cpu")
WORDS = ["red", "green", "blue", "circle", "square", "star"]
# 24 references with two triplets each: 10 % of them, 2 references or 4 triplets, are held out.
SMALL: dict[str, Any] = {
    "seeds": (0, 1), "epochs": 3, "batch_size": 11, "learning_rate": 3e-3, "save_every": 2, "dtype": "float32",
    "dropout": 0.1,
}  # fmt: skip


def inputs(folder: Path, checkpoint: Path | None = None) -> dict[str, Artifact]:
    """Artifacts of 30 images and 48 triplets, tiny weights included; the same whenever they are made."""
    checkpoint = checkpoint or tiny_checkpoint(folder / "checkpoint")
    rows: list[tuple[str, str, str | None]] = [
        (f"image-{reference:03d}", f"make it {WORDS[(reference + shift) % 6]}", f"image-{(reference + shift) % 30:03d}")
        for reference in range(24)
        for shift in (1, 7)
    ]
    facts = {"weights": resolve(str(checkpoint)).revision, "dtype": "float32"}
    return {
        "triplets": triplets_artifact(folder, rows),
        "images": images_artifact(folder, 30),
        "tokens": sealed(folder / "encode", "encode", config={"checkpoint": str(checkpoint)}, facts=facts),
    }


def run(out: Path, artifacts: dict[str, Artifact], **config: Any) -> Counts:
    settings = TrainConfig(**(SMALL | config))
    out.mkdir(parents=True, exist_ok=True)
    return train.fn(out, settings, **artifacts, facts=train_facts(settings, **artifacts), resources=RESOURCES)


FILES = ["history.parquet", "last-0", "last-1", "seed-0", "seed-1", "tensorboard"]
"""Of a training whose best checkpoints are not the last."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums round differently on more, and what ran before may have left another number than a new process has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, artifacts: dict[str, Artifact]) -> tuple[Path, Counts]:
    out = tmp_path_factory.mktemp("straight")
    return out, run(out, artifacts)


def test_it_writes_a_checkpoint_per_seed_and_a_history(straight: tuple[Path, Counts]) -> None:
    out, counts = straight
    assert sorted(path.name for path in out.iterdir()) == FILES
    history = read_table(out / "history.parquet", HISTORY).to_pylist()
    # 44 training triplets in batches of 11: 4 steps an epoch, 12 in all, and row 0 for the base checkpoint
    assert [(row["seed"], row["step"]) for row in history] == [(seed, step) for seed in (0, 1) for step in range(13)]
    assert [row["epoch"] for row in history[:13]] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [row["step"] for row in history if row["val_recall@1"] is not None] == [0, 4, 8, 12] * 2
    assert history[0]["loss"] is None
    assert history[1]["loss"] != history[14]["loss"]  # another seed takes the triplets in another order
    assert (counts.read, counts.kept, counts.written, counts.dropped) == (48, 48, 2, {})
    assert counts.detail["training"] == 44
    assert counts.detail["validation"] == 4
    assert counts.detail["steps"] == 12


def test_the_checkpoint_is_the_best_validated_step(
    straight: tuple[Path, Counts], artifacts: dict[str, Artifact]
) -> None:
    out, _ = straight
    rows = [row for row in read_table(out / "history.parquet", HISTORY).to_pylist() if row["val_recall@1"] is not None]
    known = pictures(artifacts["images"])
    split = split_triplets(artifacts["triplets"], {row.image_id for row in known}, 0.1, 1000)
    for seed in (0, 1):
        encoder = Blip2Encoder.load(out / f"seed-{seed}")
        features = Features(out.parent / f"features-{seed}")
        compute(features, artifacts["images"], known, encoder, encoder.vision_of, RESOURCES)
        ranks = Examples(split, features, known, encoder.device).ranks(encoder)
        best = max(
            (row for row in rows if row["seed"] == seed), key=lambda row: row["val_recall@1"] + row["val_recall@10"]
        )
        assert 100 * float((ranks <= 1).mean()) == pytest.approx(best["val_recall@1"])
        assert 100 * float((ranks <= 10).mean()) == pytest.approx(best["val_recall@10"])
        assert encoder.temperature.item() == pytest.approx(best["temperature"])


def test_the_vision_tower_is_that_of_the_base(straight: tuple[Path, Counts], artifacts: dict[str, Artifact]) -> None:
    base = Blip2Encoder.load(artifacts["tokens"].manifest["config"]["checkpoint"])
    trained = Blip2Encoder.load(straight[0] / "seed-1")
    images = noise_images(2)
    assert torch.equal(trained.vision(images), base.vision(images))


KILLED = """
import sys, time
from pathlib import Path
import torch
from tasks.seed_run import SeedRun
from tests.tasks import test_train
torch.set_num_threads(1)
step = SeedRun._take_step
slow = lambda self: self.seed == 1 and self.step >= 2  # after its first saved state
SeedRun._take_step = lambda self: (time.sleep(1.0 * slow(self)), step(self))
folder = Path(sys.argv[1])
test_train.run(folder / "out", test_train.inputs(folder, Path(sys.argv[2])))
"""


def test_kill_9_changes_nothing(tmp_path: Path, straight: tuple[Path, Counts], artifacts: dict[str, Artifact]) -> None:
    """Killed in the middle of the second seed and continued, it ends with the same rows and the same weights."""
    checkpoint = artifacts["tokens"].manifest["config"]["checkpoint"]
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), checkpoint])
    try:
        end = time.monotonic() + 300
        while not (out / "state-1.pt").exists():
            assert child.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    first = (out / "seed-0" / "model.safetensors").stat().st_mtime_ns
    saved = torch.load(out / "state-1.pt", weights_only=True)
    assert 0 < saved["step"] < 12
    run(out, artifacts)
    assert (out / "seed-0" / "model.safetensors").stat().st_mtime_ns == first  # not done again
    expected, found = (read_table(path / "history.parquet", HISTORY) for path in (straight[0], out))
    assert found.equals(expected)
    for seed in ("seed-0", "seed-1"):
        before, after = (path / seed / "model.safetensors" for path in (straight[0], out))
        assert before.read_bytes() == after.read_bytes()
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_killed_while_it_tidies_up(
    tmp_path: Path, straight: tuple[Path, Counts], artifacts: dict[str, Artifact]
) -> None:
    """With all seeds and the history written, nothing is trained again, whatever scraps are left."""
    import shutil

    out = tmp_path / "out"
    shutil.copytree(straight[0], out)
    (out / "history-1.parquet").write_bytes(b"a scrap")
    counts = run(out, artifacts)
    assert counts == straight[1]
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_validation_shares_no_reference_with_training(artifacts: dict[str, Artifact]) -> None:
    known = {f"image-{index:03d}" for index in range(30)}
    split = split_triplets(artifacts["triplets"], known, 0.25, 10)
    train_references, held_out = ({row.reference_id for row in rows} for rows in (split.training, split.validation))
    assert not train_references & held_out
    assert len(held_out) == 6  # a quarter of 24
    assert len(split.gallery) == max(10, len({row.target_id for row in split.validation}))
    assert {row.target_id for row in split.validation} <= set(split.gallery)
    assert split == split_triplets(artifacts["triplets"], known, 0.25, 10)


def test_hard_negatives_come_with_their_triplets(tmp_path: Path, artifacts: dict[str, Artifact]) -> None:
    rows = artifacts["triplets"].read(TRIPLETS, "triplets.parquet").to_pylist()
    for place, row in enumerate(rows):
        row["negative_ids"] = [row["reference_id"], f"image-{(place + 3) % 30:03d}", "image-029"]
    out = tmp_path / "mine"
    write_table(out / "triplets.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    armed = sealed(out, "mine", len(rows))
    known = pictures(artifacts["images"])
    ids = {picture.image_id for picture in known}
    split = split_triplets(armed, ids, 0.1, 10, hard_negatives=2)
    assert split.training[0].negative_ids == (split.training[0].reference_id, rows[0]["negative_ids"][1])
    encoder = base_encoder(TrainConfig(), artifacts["tokens"], RESOURCES)
    features = Features(tmp_path / "features")
    compute(features, artifacts["images"], known, encoder, encoder.vision_of, RESOURCES)
    examples = Examples(split, features, known, encoder.device)
    batch = examples.batch(np.arange(6))
    targets = [str(one.target_id) for one in split.training[:6]]
    wrong = [image for one in split.training[:6] for image in one.negative_ids]
    assert batch.negatives is not None
    assert batch.same_target is not None
    assert torch.equal(batch.negatives.flatten(0, 1), examples.vision(wrong))
    repeated = [image in (*targets, *wrong[:place]) for place, image in enumerate(wrong)]
    assert any(repeated)
    assert not all(repeated)
    assert batch.same_target.tolist() == [
        [
            *(other == target for other in targets),
            *(spare or image == target for spare, image in zip(repeated, wrong, strict=True)),
        ]
        for target in targets
    ]
    half = examples.batch(np.arange(6), slice(2, 4))
    assert half.negatives is not None
    assert torch.equal(half.negatives, batch.negatives[2:4])
    assert half.whole == 6
    with pytest.raises(ValueError, match=r"hard_negatives=2, but none of the 48 triplets has any; set mine\.count"):
        split_triplets(artifacts["triplets"], ids, 0.1, 10, hard_negatives=2)
    with pytest.raises(ValueError, match="has the negative 'image-029', which is none of the 29 ingested images"):
        split_triplets(armed, ids - {"image-029"}, 0.1, 10, hard_negatives=3)


def test_unusable_triplets_are_counted_by_reason(tmp_path: Path, artifacts: dict[str, Artifact]) -> None:
    rows: list[tuple[str, str, str | None]] = [
        *((f"image-{place:03d}", "make it red", f"image-{place + 1:03d}") for place in range(9)),
        ("image-000", "make it red", None),
        ("image-001", "make it red", "image-001"),
    ]
    few = artifacts | {"triplets": triplets_artifact(tmp_path, rows)}
    counts = run(tmp_path / "out", few, seeds=(0,), epochs=1, batch_size=128)
    assert counts.dropped == {"no_target_image": 1, "target_is_reference": 1}
    assert (counts.read, counts.kept) == (11, 9)
    assert counts.detail["steps"] == 1  # fewer triplets than a batch holds: all of them are the batch


def test_wrong_inputs_are_refused(tmp_path: Path, artifacts: dict[str, Artifact]) -> None:
    strange = triplets_artifact(tmp_path / "a", [("image-000", "make it red", "elsewhere")])
    with pytest.raises(ValueError, match=r"'t-0000' has the target_id 'elsewhere', .* 30 ingested images"):
        run(tmp_path / "out", artifacts | {"triplets": strange})
    few = triplets_artifact(tmp_path / "b", [("image-000", "make it red", "image-001")])
    with pytest.raises(ValueError, match="at least 2 are needed: generate more"):
        run(tmp_path / "out", artifacts | {"triplets": few})
    facts = {"weights": "other", "dtype": "float32"}
    other = sealed(tmp_path / "c", "encode", config=artifacts["tokens"].manifest["config"], facts=facts)
    with pytest.raises(ValueError, match="not those that encoded the images"):
        run(tmp_path / "out", artifacts | {"tokens": other})
    with pytest.raises(ValueError, match="seeds"):
        TrainConfig(seeds=(1, 1))
    with pytest.raises(ValueError, match="needs a loss with texts, and losses are composed_image"):
        TrainConfig(text_targets="frozen")


def test_the_temperature_starts_as_it_is_set_or_where_the_checkpoint_left_it() -> None:
    encoder = tiny_encoder()
    encoder.temperature.data.fill_(0.03)
    TrainConfig(temperature=None).prepare(encoder)
    assert encoder.temperature.item() == pytest.approx(0.03)
    TrainConfig().prepare(encoder)
    assert encoder.temperature.item() == pytest.approx(0.07)


def test_frozen_texts_are_those_of_the_base_at_every_step(
    tmp_path: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = artifacts["triplets"].read(TRIPLETS, "triplets.parquet").to_pylist()
    for place, row in enumerate(rows):
        word = WORDS[place % 6]
        row |= {"target_id": None, "target_text": f"a {word} star", "reference_caption": f"the {word}"}
    write_table(tmp_path / "told" / "triplets.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    told = artifacts | {"triplets": sealed(tmp_path / "told", "generate", len(rows))}
    base = Blip2Encoder.load(artifacts["tokens"].manifest["config"]["checkpoint"])
    seen: list[float] = []
    losses = RetrievalLoss.losses

    def watched(self: RetrievalLoss, tokens: Any, temperature: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        for name, texts in (("text", batch.target_texts), ("caption", batch.captions)):
            assert texts is not None
            assert not tokens[name].requires_grad
            seen.append(float((tokens[name] - base.text_tokens(texts).tokens).abs().max().detach()))
        return losses(self, tokens, temperature, batch)

    monkeypatch.setattr(RetrievalLoss, "losses", watched)
    settings = {"losses": ("composed_text", "caption_image"), "text_targets": "frozen"}
    counts = run(tmp_path / "out", told, seeds=(0, 1), **settings)
    assert len(seen) == 2 * 2 * 12  # texts and captions, of two seeds
    assert max(seen) < 1e-3  # half precision
    assert counts.detail["val_recall@10"] >= counts.detail["base_val_recall@10"]
    assert "read by the base" in (tmp_path / "out" / "seed-1" / "README.md").read_text()


def test_a_loss_that_is_no_number_names_the_triplets(
    tmp_path: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.Trainer.step

    def poisoned(self: training.Trainer, number: int, batch: training.Batch, rate: float) -> float:
        if number == 2:
            batch.reference[3] = torch.nan
        return step(self, number, batch, rate)

    monkeypatch.setattr(training.Trainer, "step", poisoned)
    with pytest.raises(ValueError, match=r"seed 0, step 3: .*; the batch holds the triplets t-\d{4}, .*Try a lower"):
        run(tmp_path / "out", artifacts)


def test_the_first_of_the_best_steps_is_kept(
    tmp_path: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.examples import Examples

    whole, calls = Examples.ranks, iter(range(100))
    monkeypatch.setattr(Examples, "ranks", lambda self, encoder: whole(self, encoder) * 0 + 12 - next(calls))
    run(tmp_path / "out", artifacts, seeds=(0,))  # ranks 12, 11, 10, 9
    base = Blip2Encoder.load(artifacts["tokens"].manifest["config"]["checkpoint"])
    chosen = Blip2Encoder.load(tmp_path / "out" / "seed-0")
    rows = read_table(tmp_path / "out" / "history.parquet", HISTORY).to_pylist()
    assert [row["val_recall@10"] for row in rows if row["val_recall@10"] is not None] == [0, 0, 100, 100]
    assert chosen.temperature.item() == pytest.approx(rows[8]["temperature"])  # the first that is best
    assert not torch.equal(chosen.model.query_tokens, base.model.query_tokens)


def test_patience_ends_a_run_that_does_not_improve(
    tmp_path: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.examples import Examples

    whole = Examples.ranks
    monkeypatch.setattr(Examples, "ranks", lambda self, encoder: whole(self, encoder) * 0 + 5)  # R@1 0, R@10 100
    counts = run(tmp_path / "out", artifacts, seeds=(0,), patience=2, validate_every=3)
    assert counts.detail["steps"] == 6  # two validations after the base's own
    base = Blip2Encoder.load(artifacts["tokens"].manifest["config"]["checkpoint"])
    chosen = Blip2Encoder.load(tmp_path / "out" / "seed-0")
    assert torch.equal(chosen.model.query_tokens, base.model.query_tokens)


def test_texts_that_are_too_long_are_counted(tmp_path: Path, artifacts: dict[str, Artifact]) -> None:
    # [CLS] make it red [SEP]: five tokens
    counts = run(tmp_path / "out", artifacts, seeds=(0,), epochs=1, max_text_tokens=4)
    assert counts.detail["cut_texts"] == 48
    assert Blip2Encoder.load(tmp_path / "out" / "seed-0").max_text_tokens == 4


def test_the_facts_hold_the_resolved_dtype(artifacts: dict[str, Artifact]) -> None:
    assert train_facts(TrainConfig(dtype="float32"), **artifacts) == {"dtype": "float32"}
    assert train_facts(TrainConfig(), **artifacts)["dtype"] in ("float32", "bfloat16")


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_any_step(
    tmp_path: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked: list[tuple[Path, int]] = []

    def full(folder: Path, size: int, what: str) -> None:
        asked.append((folder, size))
        raise OSError(f"{what} needs more")

    monkeypatch.setattr("tasks.train_room.require_disk", full)
    with pytest.raises(OSError, match=r"training \(two checkpoints of each of 2 seeds, a saved state\) needs more"):
        run(out, artifacts)
    checkpoint = Path(artifacts["tokens"].manifest["config"]["checkpoint"])
    assert asked[0][0] == out
    assert asked[0][1] > 4 * (checkpoint / "model.safetensors").stat().st_size
    assert not (out / "seed-0").exists()


def test_vision_features_beyond_the_budget_are_computed_at_every_step(
    tmp_path: Path, straight: tuple[Path, Counts], artifacts: dict[str, Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrainConfig(**(SMALL | {"seeds": (0,)}))
    facts, out = train_facts(settings, **artifacts), tmp_path / "out"
    out.mkdir()
    train.fn(out, settings, **artifacts, facts=facts, resources=RESOURCES.model_copy(update={"feature_gb": 0.0}))
    assert "more than resources.feature_gb=0: every step computes" in caplog.text
    stored = [row for row in read_table(straight[0] / "history.parquet", HISTORY).to_pylist() if row["seed"] == 0]
    fresh = read_table(out / "history.parquet", HISTORY).to_pylist()
    # The tower's last bits depend on how many images it sees at once.
    assert [row["loss"] for row in fresh[1:]] == pytest.approx([row["loss"] for row in stored[1:]], abs=5e-3)


def test_a_checkpoint_has_a_card_its_settings_and_curves(straight: tuple[Path, Counts]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _ = straight
    recipe = json.loads((out / "seed-1" / "training.yaml").read_text())  # JSON is YAML
    assert recipe["config"]["seeds"] == [1]
    assert recipe["config"]["learning_rate"] == 3e-3
    assert set(recipe["inputs"]) == {"generate", "ingest", "encode"}
    assert recipe["triplets"] == {"training": 44, "validation": 4}
    card = (out / "seed-1" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"step {recipe['steps']['kept']} of 12 was kept" in card
    last = json.loads((out / "last-1" / "training.yaml").read_text())
    assert recipe["steps"]["kept"] < last["steps"]["kept"] == last["steps"]["taken"] == 12
    assert "step 12 of 12 was kept" in (out / "last-1" / "README.md").read_text()
    best, latest = (Blip2Encoder.load(out / name).state_dict() for name in ("seed-1", "last-1"))
    assert any(not torch.equal(value, latest[name]) for name, value in best.items())
    history = [row for row in read_table(out / "history.parquet", HISTORY).to_pylist() if row["seed"] == 1]
    best = next(row for row in history if row["step"] == recipe["steps"]["kept"])
    base = history[0]
    figures = [row[f"val_recall@{k}"] for row in (base, best) for k in (1, 10)]
    assert "| " + " | ".join(f"{figure:.1f}" for figure in figures) + " |" in card
    curves = EventAccumulator(str(out / "tensorboard" / "seed-1"))
    curves.Reload()
    assert [(event.step, pytest.approx(event.value)) for event in curves.Scalars("loss")] == [
        (row["step"], row["loss"]) for row in history[1:]
    ]
    assert [event.step for event in curves.Scalars("val_recall@1")] == [0, 4, 8, 12]


def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(
    tmp_path: Path, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.room.available_memory", lambda: None)
    asked: list[int] = []
    monkeypatch.setattr("tasks.train_room.require_batch", lambda rows, each, what, setting: asked.append(each))
    run(tmp_path / "measured", artifacts, seeds=(0,), epochs=1)
    monkeypatch.undo()
    monkeypatch.setattr("tasks.features.require_batch", lambda *given: None)
    monkeypatch.setattr("tasks.room.available_memory", lambda: 5 * asked[0])
    with pytest.raises(MemoryError, match=r"a batch of 11 triplets needs .* set train.cached_rows to 5 or less"):
        run(tmp_path / "refused", artifacts, seeds=(0,), epochs=1)
    run(tmp_path / "fits", artifacts, seeds=(0,), epochs=1, cached_rows=5)
