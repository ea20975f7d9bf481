"""Train: fine-tune the Q-Former on triplets, once per seed, over features of the vision tower computed once."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from data.artifact import Artifact, Counts, read_table, write_atomically, write_table
from data.config import Resources, StageConfig
from data.progress import progress
from models.encoders import TrainableEncoder, load_encoder
from models.training import (
    DivergedError,
    Schedule,
    Trainer,
    composed_to_image,
    learning_rate,
    rows_of_step,
    training_dtype,
)
from tasks.encode import refuse_half_on_cpu
from tasks.examples import Examples, split_triplets
from tasks.features import Features, compute, pictures
from tasks.stage import NO_FACTS, stage

HISTORY = pa.schema(
    [
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),  # steps taken; row 0 is the base checkpoint
        pa.field("epoch", pa.int32(), nullable=False),  # from 0
        pa.field("loss", pa.float32()),  # nats, of the step's batch before the step; null in row 0
        pa.field("lr", pa.float64()),
        pa.field("val_recall@1", pa.float32()),  # percent, after the step; null where it was not measured
        pa.field("val_recall@10", pa.float32()),
        pa.field("temperature", pa.float32(), nullable=False),  # after the step
    ]
)
Row = dict[str, Any]
Share = Annotated[float, Field(gt=0, lt=1)]


class TrainConfig(StageConfig):
    """How the retriever is trained. The defaults suit the tiny world; for a real BLIP-2 set learning_rate=1e-5."""

    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1, description="one training run for each")
    epochs: PositiveInt = Field(12, description="times that every triplet is seen")
    batch_size: Annotated[int, Field(ge=2, description="triplets per step; the others' targets are negatives")] = 128
    learning_rate: PositiveFloat = Field(5e-4, description="the highest; AdamW")
    warmup: Annotated[float, Field(ge=0, lt=1, description="share of the steps in which the rate rises")] = 0.1
    schedule: Schedule = Field("cosine", description="cosine to 0; step: x0.1 every 10 epochs; constant")
    weight_decay: NonNegativeFloat = 0.05
    clip: PositiveFloat = Field(1.0, description="greatest norm of the gradient")
    dropout: Annotated[float, Field(ge=0, lt=1, description="of the Q-Former's hidden states and attention")] = 0.0
    temperature: PositiveFloat = Field(0.07, description="divides the cosines; the start, if it is learned")
    learn_temperature: bool = True
    max_text_tokens: PositiveInt | None = Field(None, description="texts are cut here; None: the checkpoint's limit")
    validation: Share = Field(0.1, description="share of the references held out to choose the checkpoint")
    validation_gallery: PositiveInt = Field(1000, description="images that the validation ranks")
    validate_every: PositiveInt | None = Field(None, description="steps between validations; None: one per epoch")
    patience: PositiveInt | None = Field(None, description="stop after so many validations without improvement")
    save_every: PositiveInt = Field(50, description="steps between saved states, beside one at each validation")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must differ from each other, got {seeds}")
        return seeds


def train_facts(config: TrainConfig, triplets: Artifact, images: Artifact, tokens: Artifact) -> dict[str, Any]:
    """What the key has to know: the dtype behind "auto". The weights are in the key of `tokens`."""
    return {"dtype": training_dtype(config.dtype)}


@stage(version=1, facts=train_facts)
def train(
    out: Path,
    config: TrainConfig,
    triplets: Artifact,
    images: Artifact,
    tokens: Artifact,
    *,
    facts: Mapping[str, Any] = NO_FACTS,
    resources: Resources,
) -> Counts:
    """Write seed-<s>/, the best checkpoint of each seed in Hugging Face format, and history.parquet.

    The base checkpoint is the one that `tokens` were made with. Its vision tower is frozen and runs once over the
    images. The checkpoint of a seed is the step with the highest mean of recall@1 and recall@10 on held-out references,
    the base checkpoint included. A killed run continues from its last saved state, with the same steps.

    Raises:
        ValueError: if triplets and images do not belong together, or the loss is not finite: the message names the
            triplets of the batch.
    """
    refuse_half_on_cpu("auto", str(tokens.manifest["facts"]["dtype"]), resources)
    known = pictures(images)
    split = split_triplets(triplets, {row.image_id for row in known}, config.validation, config.validation_gallery)
    encoder = base_encoder(config, tokens, resources)
    history = out / "history.parquet"
    if not history.exists():
        features = Features(out / "vision")
        wanted = [row for row in known if row.image_id in split.image_ids]
        compute(features, images, wanted, encoder, encoder.vision_of, resources)
        examples = Examples(split, features, known, encoder.device)
        with torch.random.fork_rng():
            _train_seeds(out, config, encoder, examples, str(facts["dtype"]))
        write_table(
            history, pa.concat_tables(read_table(_rows(out, s), HISTORY) for s in sorted(config.seeds)), HISTORY
        )
    for seed in config.seeds:
        _rows(out, seed).unlink(missing_ok=True)
    shutil.rmtree(out / "vision", ignore_errors=True)
    texts = [triplet.modification for triplet in (*split.training, *split.validation)]
    return Counts(
        read=len(texts) + sum(split.dropped.values()),
        kept=len(texts),
        dropped=split.dropped,
        written=len(config.seeds),
        detail={
            "training": len(split.training),
            "validation": len(split.validation),
            "gallery": len(split.gallery),
            "cut_texts": encoder.cut_texts(texts),
            "dtype": str(facts["dtype"]),
            **_summary(read_table(history, HISTORY)),
        },
    )


def base_encoder(config: TrainConfig, tokens: Artifact, resources: Resources) -> TrainableEncoder:
    """The checkpoint that `tokens` were made with, ready to be trained.

    Raises:
        ValueError: if its files are not those any more.
    """
    name, facts = tokens.manifest["config"]["checkpoint"], tokens.manifest["facts"]
    encoder = load_encoder(name, resources.device, facts["dtype"], config.max_text_tokens)
    if encoder.digest != facts["weights"]:
        raise ValueError(f"the files of checkpoint {name} are not those that encoded the images; run again")
    encoder.set_dropout(config.dropout)
    with torch.no_grad():
        encoder.temperature.fill_(config.temperature)
    return encoder


def _train_seeds(out: Path, config: TrainConfig, encoder: TrainableEncoder, examples: Examples, dtype: str) -> None:
    start = {name: parameter.detach().clone() for name, parameter in encoder.trainable()}
    steps = total_steps(config, len(examples.split.training))
    finished = sum((out / f"seed-{seed}").exists() for seed in config.seeds)
    with progress(steps * len(config.seeds), "steps", steps * finished) as advance:
        for seed in config.seeds:
            if (out / f"seed-{seed}").exists():
                continue
            with torch.no_grad():
                for name, parameter in encoder.trainable():
                    parameter.copy_(start[name])
            SeedRun(out, config, seed, encoder, examples, dtype).finish(advance)


def total_steps(config: TrainConfig, triplets: int) -> int:
    """Steps of one seed: whole batches only, see `rows_of_step`."""
    return config.epochs * (triplets // min(config.batch_size, triplets))


def _rows(out: Path, seed: int) -> Path:
    return out / f"history-{seed}.parquet"


class SeedRun:
    """One seed's training, from the base checkpoint or from where it was stopped to its checkpoint.

    Attributes:
        step: steps taken.
        rows: the history so far.
        best: step, score and weights of the best validation so far.
    """

    def __init__(
        self, out: Path, config: TrainConfig, seed: int, encoder: TrainableEncoder, examples: Examples, dtype: str
    ) -> None:
        self.out, self.config, self.seed, self.examples = out, config, seed, examples
        self.encoder = encoder
        self.trainer = Trainer(
            encoder, composed_to_image, seed=seed, weight_decay=config.weight_decay, clip=config.clip, dtype=dtype,
            learn_temperature=config.learn_temperature,
        )  # fmt: skip
        self.triplets = len(examples.split.training)
        self.steps = total_steps(config, self.triplets)
        self.step = 0
        self.rows: list[Row] = []
        self.best: tuple[int, float, dict[str, torch.Tensor]] = (0, -1.0, {})
        self.state = out / f"state-{seed}.pt"

    def finish(self, advance: Callable[[int], None]) -> None:
        """Take all steps that are left, then write the checkpoint and the history, and drop the state."""
        if self.state.exists():
            self._continue()
            advance(self.step)
        else:
            self.rows.append(self._row(epoch=0, loss=None, rate=None))
            self._validate()
        while self.step < self.steps and not self._hopeless():
            self._take_step()
            advance(1)
        write_table(_rows(self.out, self.seed), pa.Table.from_pylist(self.rows, schema=HISTORY), HISTORY)
        self.trainer.restore(self.best[2])
        unfinished = self.out / f".seed-{self.seed}"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.encoder.save(unfinished)
        os.rename(unfinished, self.out / f"seed-{self.seed}")  # a folder of this name is whole
        self.state.unlink(missing_ok=True)

    def _take_step(self) -> None:
        config = self.config
        epoch, rows = rows_of_step(self.step, self.triplets, config.batch_size, self.seed)
        warmup = round(config.warmup * self.steps)
        rate = learning_rate(self.step, self.steps, config.learning_rate, warmup, config.schedule, epoch)
        try:
            loss = self.trainer.step(self.step, self.examples.batch(rows), rate)
        except DivergedError as error:
            ids = ", ".join(self.examples.split.training[row].triplet_id for row in rows)
            raise ValueError(
                f"seed {self.seed}, step {self.step + 1}: {error}; the batch holds the triplets {ids}. Try a lower"
                " learning_rate or dtype=float32"
            ) from error
        self.step += 1
        self.rows.append(self._row(epoch, loss, rate))
        if self.step % (config.validate_every or self.steps // config.epochs) == 0 or self.step == self.steps:
            self._validate()
            self._save()
        elif self.step % config.save_every == 0:
            self._save()

    def _row(self, epoch: int, loss: float | None, rate: float | None) -> Row:
        return {
            "seed": self.seed, "step": self.step, "epoch": epoch, "loss": loss, "lr": rate, "val_recall@1": None,
            "val_recall@10": None, "temperature": float(self.encoder.temperature.detach()),
        }  # fmt: skip

    def _validate(self) -> None:
        self.encoder.eval()
        ranks = self.examples.ranks(self.encoder)
        recalls = {k: 100 * float(np.mean(ranks <= k)) for k in (1, 10)}
        self.rows[-1] |= {f"val_recall@{k}": value for k, value in recalls.items()}
        score = sum(recalls.values()) / 2
        if score > self.best[1]:
            self.best = (self.step, score, self.trainer.snapshot())

    def _hopeless(self) -> bool:
        """Whether as many validations as `patience` have brought nothing."""
        after = [row for row in self.rows if row["val_recall@1"] is not None and row["step"] > self.best[0]]
        return self.config.patience is not None and len(after) >= self.config.patience

    def _save(self) -> None:
        state = {"step": self.step, "rows": self.rows, "best": self.best, "trainer": self.trainer.state()}
        write_atomically(self.state, lambda path: torch.save(state, path))

    def _continue(self) -> None:
        state = torch.load(self.state, map_location="cpu", weights_only=True)
        self.step, self.rows, self.best = state["step"], state["rows"], tuple(state["best"])
        self.trainer.resume(state["trainer"])


def _summary(history: pa.Table) -> dict[str, float]:
    """Means over the seeds: steps taken, and validation recall of the base checkpoint and of the chosen ones."""
    runs: dict[int, list[Row]] = {}
    for row in history.to_pylist():
        if row["val_recall@1"] is not None:
            runs.setdefault(row["seed"], []).append(row)
    best = [max(rows, key=lambda row: row["val_recall@1"] + row["val_recall@10"]) for rows in runs.values()]
    base = [rows[0] for rows in runs.values()]
    figures = {"steps": float(np.mean([rows[-1]["step"] for rows in runs.values()]))}
    for name in ("val_recall@1", "val_recall@10"):
        figures[f"base_{name}"] = round(float(np.mean([row[name] for row in base])), 2)
        figures[name] = round(float(np.mean([row[name] for row in best])), 2)
    return figures
