"""One seed's training, from the base checkpoint, or from where a kill stopped it, to its own checkpoint."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.tensorboard import SummaryWriter

from data.artifact import write_atomically, write_table
from models.encoders import TrainableEncoder
from models.gradients import Processes
from models.sharding import gathered
from models.training import DivergedError, Trainer, learning_rate, rows_of_step, steps_of_epoch
from tasks.cards import Origin, write_card
from tasks.examples import Examples
from tasks.train import HISTORY, TrainConfig

Row = dict[str, Any]


def total_steps(config: TrainConfig, groups: Sequence[int]) -> int:
    """Steps of one seed: whole batches only, see `rows_of_step`."""
    return config.epochs * steps_of_epoch(groups, config.batch_size)


def history_file(out: Path, seed: int) -> Path:
    """Where a seed's history lies until all are merged."""
    return out / f"history-{seed}.parquet"


class SeedRun:
    """One seed's training, from the base checkpoint or from where it was stopped to its checkpoint.

    Attributes:
        step: steps taken.
        rows: the history so far.
        best: step, score and weights of the best validation so far.
    """

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        seed: int,
        encoder: TrainableEncoder,
        examples: Examples,
        origin: Origin,
        processes: Processes,
    ) -> None:
        self.out, self.config, self.seed, self.examples = out, config, seed, examples
        self.encoder, self.origin, self.processes = encoder, origin, processes
        self.trainer = Trainer(
            encoder, config.objective(), seed=seed, weight_decay=config.weight_decay,
            clip=config.clip, dtype=origin.dtype, learn_temperature=config.learn_temperature,
            cached_rows=config.cached_rows, processes=processes,
        )  # fmt: skip
        self.groups = examples.split.groups
        self.steps = total_steps(config, self.groups)
        self.step = 0
        self.rows: list[Row] = []
        self.best: tuple[int, float, dict[str, torch.Tensor]] = (0, -1.0, {})
        self.state = out / f"state-{seed}.pt"
        self._curves: SummaryWriter | None = None

    def finish(self, advance: Callable[[int], None]) -> None:
        """Take all steps that are left, then write the checkpoint and the history, and drop the state."""
        if self.processes.agree(self.state.exists):
            self._continue()
            advance(self.step)
        self._draw_curves()
        if not self.rows:
            self.rows.append(self._row(epoch=0, loss=None, rate=None))
            self._validate()
            self._draw()
        while self.step < self.steps and not self._hopeless():
            self._take_step()
            advance(1)
        if self._curves is not None:
            self._curves.close()
        last = None if self.best[0] == self.step else self.trainer.snapshot()
        if self.processes.sharded:
            gathered(self.encoder)
        if self.processes.rank == 0:
            write_table(history_file(self.out, self.seed), pa.Table.from_pylist(self.rows, schema=HISTORY), HISTORY)
            if last is not None:
                self._write(f"last-{self.seed}", self.step, last)
            self._write(f"seed-{self.seed}", self.best[0], self.best[2])
            self.state.unlink(missing_ok=True)

    def _write(self, name: str, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for weight, parameter in self.encoder.trainable():
                if weight in weights:
                    parameter.copy_(weights[weight])
        unfinished, folder = self.out / f".{name}", self.out / name
        for leftover in (unfinished, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        self.encoder.save(unfinished)
        write_card(unfinished, self.origin, self.config, self.seed, step, self.rows)
        os.rename(unfinished, folder)  # a folder of this name is whole

    def _take_step(self) -> None:
        config = self.config
        epoch, rows = rows_of_step(self.step, self.groups, config.batch_size, self.seed)
        warmup = round(config.warmup * self.steps)
        rate = learning_rate(self.step, self.steps, config.learning_rate, warmup, config.schedule, epoch)
        ids = ", ".join(self.examples.split.training[row].triplet_id for row in rows)
        with self._diverging(self.step + 1, f"the batch holds the triplets {ids}"):
            batch = self.examples.batch(rows, self.processes.share(len(rows)))
            loss = self.trainer.step(self.step, batch, rate)
        self.step += 1
        self.rows.append(self._row(epoch, loss, rate))
        if self.step % (config.validate_every or self.steps // config.epochs) == 0 or self.step == self.steps:
            self._validate()
            self._save()
        elif self.step % config.save_every == 0:
            self._save()
        self._draw()

    @contextmanager
    def _diverging(self, step: int, where: str) -> Iterator[None]:
        try:
            yield
        except DivergedError as error:
            raise ValueError(
                f"seed {self.seed}, step {step}: {error}; {where}. Try a lower learning_rate or dtype=float32"
            ) from error

    def _row(self, epoch: int, loss: float | None, rate: float | None) -> Row:
        return {
            "seed": self.seed, "step": self.step, "epoch": epoch, "loss": loss, "lr": rate, "val_recall@1": None,
            "val_recall@10": None, "temperature": float(self.encoder.temperature.detach()),
        }  # fmt: skip

    def _validate(self) -> None:
        with self._diverging(self.step, "the weights are no longer of use"):
            # Where weights are shared, nobody can rank alone.
            found = self._ranks() if self.processes.sharded else None
            ranks = self.processes.agree(self._ranks if found is None else lambda: found)
        recalls = {k: 100 * float(np.mean(ranks <= k)) for k in (1, 10)}
        self.rows[-1] |= {f"val_recall@{k}": value for k, value in recalls.items()}
        score = sum(recalls.values()) / 2
        if score > self.best[1]:
            self.best = (self.step, score, self.trainer.snapshot())

    def _ranks(self) -> npt.NDArray[np.float64]:
        self.encoder.eval()
        with self.trainer.autocast():
            return self.examples.ranks(self.encoder)

    def _draw_curves(self) -> None:
        """Open TensorBoard's file of this seed; what a killed run drew beyond its last saved state is cut off."""
        if self.processes.rank == 0:
            folder = self.out / "tensorboard" / f"seed-{self.seed}"
            self._curves = SummaryWriter(str(folder), purge_step=self.step + 1 if self.rows else None)

    def _draw(self) -> None:
        """Add the last row of the history to TensorBoard's curves."""
        if self._curves is None:
            return
        row = self.rows[-1]
        for name in ("loss", "lr", "val_recall@1", "val_recall@10", "temperature"):
            if row[name] is not None:
                self._curves.add_scalar(name, row[name], row["step"])

    def _hopeless(self) -> bool:
        """Whether as many validations as `patience` have brought nothing."""
        after = [row for row in self.rows if row["val_recall@1"] is not None and row["step"] > self.best[0]]
        return self.config.patience is not None and len(after) >= self.config.patience

    def _save(self) -> None:
        if self.processes.rank > 0 and not self.processes.sharded:
            return
        state = {"step": self.step, "rows": self.rows, "best": self.best, "trainer": self.trainer.state()}
        if self.processes.rank == 0:
            write_atomically(self.state, lambda path: torch.save(state, path))

    def _continue(self) -> None:
        state = torch.load(self.state, map_location="cpu", weights_only=True)
        self.step, self.rows, self.best = state["step"], state["rows"], tuple(state["best"])
        self.trainer.resume(state["trainer"])


def summary(history: pa.Table) -> dict[str, float]:
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
