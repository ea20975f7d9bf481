"""The training loop of a retriever: steps, schedule, data order and a state that continues exactly.

Everything random is drawn from the seed and the step, never from what was drawn before: a run that continues from a
saved state takes the same steps as one that was never stopped.
"""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.encoders import TrainableEncoder
from models.gradients import Processes, TokenObjective, cached_gradients
from models.objectives import Batch, Objective
from models.sharding import clip_gradients, load_whole_state, shard, share_like, whole, whole_state
from models.similarity import maxsim

Integers = npt.NDArray[np.int64]
Schedule = Literal["cosine", "step", "constant"]

# A temperature that learning drives towards 0 makes the loss blind to all but the hardest negative, and then infinite.
TEMPERATURES = (0.01, 0.5)
# Queries whose similarities to the whole gallery are held at once, by `ranks_of_targets`.
QUERY_BLOCK = 32


class DivergedError(ValueError):
    """The loss, its gradient, or a score of the trained network is not a finite number."""


def learning_rate(step: int, steps: int, peak: float, warmup: int, schedule: Schedule, epoch: int = 0) -> float:
    """Learning rate of a step, counted from 0.

    Args:
        step, steps: this step and how many there are.
        peak: reached after the warm-up.
        warmup: steps of linear rise.
        schedule: "cosine" falls to 0 at the end; "step" multiplies by 0.1 every 10 epochs (MVFT-JI's training);
            "constant" stays.
        epoch: for "step".
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    return peak * 0.1 ** (epoch // 10) if schedule == "step" else peak


def steps_of_epoch(groups: Sequence[int], batch: int) -> int:
    """Whole batches of all groups, of which each has so many rows."""
    return sum(rows // min(batch, rows) for rows in groups)


def rows_of_step(step: int, groups: Sequence[int], batch: int, seed: int) -> tuple[int, Integers]:
    """Epoch and rows of a step: every epoch is a permutation of its own, cut into whole batches.

    Rows of a batch are of one group, so that its negatives are of one kind; groups are numbered through, those of the
    first first. The rest of a group, shorter than a batch, is left out: it would be judged against fewer negatives. It
    is another rest in every epoch. With fewer rows in a group than a batch holds, all of them are the batch.
    """
    epoch, place = divmod(step, steps_of_epoch(groups, batch))
    generator = np.random.default_rng([seed, epoch])
    batches: list[Integers] = []
    start = 0
    for rows in groups:
        order, size = start + generator.permutation(rows), min(batch, rows)
        batches += [order[first : first + size] for first in range(0, rows - size + 1, size)]
        start += rows
    if len(groups) > 1:
        place = int(generator.permutation(len(batches))[place])
    return epoch, batches[place]


@torch.no_grad()
def ranks_of_targets(queries: Tensor, gallery: Tensor, targets: Tensor, exclude: Tensor) -> npt.NDArray[np.float64]:
    """Rank of each query's target, from 1. Candidates that score the same share their mean rank: a model that gives
    everything the same score must not look perfect.

    Args:
        queries: (Q, T, D) unit vectors.
        gallery: (N, S, D), likewise.
        targets: (Q,) rows of the gallery.
        exclude: (Q,) rows of the gallery that are no candidates (the reference), -1 for none.

    Raises:
        DivergedError: if a score is not finite; comparisons would then find every target first.
    """
    ranks = []
    for start in range(0, len(queries), QUERY_BLOCK):
        part = slice(start, start + QUERY_BLOCK)
        with torch.autocast(queries.device.type, enabled=False):
            scores = maxsim(queries[part].float(), gallery.float())
        if not scores.isfinite().all():
            raise DivergedError("the scores of the validation are not all finite")
        rows = torch.arange(len(scores), device=scores.device)
        own = scores[rows, targets[part]].unsqueeze(1)
        barred = exclude[part]
        scores[rows[barred >= 0], barred[barred >= 0]] = -torch.inf
        ties = (scores == own).sum(1) - 1
        ranks.append(1 + (scores > own).sum(1) + ties / 2)
    return torch.cat(ranks).double().cpu().numpy()


class Trainer:
    """One run of an encoder's trainable part: AdamW, a gradient clipped by its norm, a bounded temperature."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        objective: Objective,
        *,
        seed: int,
        weight_decay: float,
        clip: float,
        dtype: str,
        learn_temperature: bool = True,
        cached_rows: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Take over an encoder; everything that `encoder.trainable()` does not name is frozen.

        Args:
            encoder: it is changed in place.
            objective: what is minimised.
            seed: of dropout.
            weight_decay: of matrices; biases, norms and the temperature have none.
            clip: greatest norm of the gradient.
            dtype: "float32", or "bfloat16" for an autocast in which the weights stay float32.
            learn_temperature: whether the temperature is trained with the rest.
            cached_rows: rows encoded at once, by cached gradients; None: all.
            processes: who shares the batches; None: nobody.

        Raises:
            TypeError: if the batch is to be taken in parts and the objective does not say how.
        """
        self.encoder = encoder
        self.objective = objective
        self.seed = seed
        self.clip = clip
        self.dtype = dtype
        self.cached_rows = cached_rows
        self.processes = processes or Processes()
        self._whole = cached_rows is None and self.processes.size == 1
        if self.processes.sharded:
            shard(encoder, self.processes.size)
        if not self._whole and not hasattr(objective, "encode"):
            raise TypeError("a batch in parts needs an objective that encodes rows and then compares their tokens")
        self.weights: dict[str, nn.Parameter] = dict(encoder.trainable())
        if not learn_temperature:
            del self.weights["temperature"]
        for parameter in encoder.parameters():
            parameter.requires_grad_(False)
        for parameter in self.weights.values():
            parameter.requires_grad_(True)
        matrices = [parameter for parameter in self.weights.values() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self.weights.values() if parameter.ndim == 1]
        numbers = [parameter for parameter in self.weights.values() if parameter.ndim == 0]  # never shared: apart
        kinds = ((matrices, weight_decay), (vectors, 0.0), (numbers, 0.0))
        groups = [{"params": kind, "weight_decay": decay} for kind, decay in kinds if kind]
        # Betas of SPRC's training of the same network (blip_fine_tune_2.py).
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)

    def step(self, step: int, batch: Batch, rate: float) -> float:
        """Take one step and return the loss before it.

        Raises:
            DivergedError: if the loss or its gradient is not finite; the weights are then as before.
        """
        self.encoder.train()
        value = float(self._gradients(step, batch))
        norm = clip_gradients(self.weights.values(), self.clip)
        if not math.isfinite(norm):
            raise DivergedError(f"the loss is {value:g}, but the norm of its gradient is {norm}")
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        with torch.no_grad():
            self.encoder.temperature.clamp_(*TEMPERATURES)
        return value

    def _gradients(self, step: int, batch: Batch) -> Tensor:
        """Leave the gradient of the whole batch's loss in the weights; return the loss."""
        try:
            if not self._whole:
                return cached_gradients(
                    self.encoder, cast(TokenObjective, self.objective), batch, list(self.weights.values()),
                    rows=self.cached_rows, start=lambda part: self._seed(f"{step}/{part}"),
                    processes=self.processes, autocast=self.autocast, check=_sum,
                )  # fmt: skip
            self._seed(str(step))
            with self.autocast():
                terms = self.objective(self.encoder, batch)
        except DivergedError:
            raise
        except ValueError as error:  # a loss refuses tokens that are not numbers, and says which
            raise DivergedError(str(error)) from error
        loss = _sum(terms)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _seed(self, place: str) -> None:
        """Set the seed of dropout from the run's and a place in it."""
        drawn = hashlib.sha256(f"{self.seed}/{place}".encode()).digest()
        torch.manual_seed(int.from_bytes(drawn[:7]))

    def autocast(self) -> torch.autocast:
        """The context in which the network computes in the trainer's dtype."""
        return torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16")

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the trained weights, whole and on the CPU; where they are shared, all processes have to ask."""
        return {name: whole(parameter.detach()).cpu().clone() for name, parameter in self.weights.items()}

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put back a snapshot."""
        for name, parameter in self.weights.items():
            parameter.copy_(share_like(weights[name], parameter))

    def state(self) -> dict[str, Any]:
        """A copy of weights and optimiser, whole: with the number of the step, all that continuing needs, with as many
        processes or with others."""
        return {"weights": self.snapshot(), "optimiser": whole_state(self.optimiser)}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.restore(state["weights"])
        load_whole_state(self.optimiser, state["optimiser"])


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses; a DivergedError if it is not finite."""
    loss = torch.stack(list(terms.values())).sum()
    if not math.isfinite(float(loss.detach())):
        named = ", ".join(f"{name} {float(term.detach())}" for name, term in terms.items())
        raise DivergedError(f"the loss is {float(loss.detach())} ({named})")
    return loss


def training_dtype(asked: str) -> str:
    """The dtype behind "auto": bfloat16 on a GPU, and on a CPU whose matrix units are clearly faster in it."""
    if asked != "auto":
        return asked
    return "bfloat16" if torch.cuda.is_available() or cpu_bfloat16_gain() > 1.5 else "float32"


def cpu_bfloat16_gain(rounds: int = 20) -> float:
    """How many times faster than in float32 one core multiplies matrices in bfloat16; takes some 20 ms.

    Between 3 and 8 with good AVX512-BF16 or AMX units, below 1 without. The fastest of short interleaved rounds is
    hardly disturbed by other work on the machine; the answer must not change from run to run.
    """
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    operands = {kind: (torch.ones(512, 256, dtype=kind), torch.ones(256, 512, dtype=kind)) for kind in best}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other
    try:
        for _ in range(rounds):
            for kind, (left, right) in operands.items():
                start = time.perf_counter()
                left @ right
                best[kind] = min(best[kind], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
