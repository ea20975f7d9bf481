"""Gradients of a loss over a whole batch, of which no process and no pass holds more than a part.

A contrastive loss needs the tokens of all rows at once, but the network need not hold the activations of all rows at
once (GradCache: Gao et al. 2021, arXiv 2101.06983). Rows are encoded in parts without a gradient; the loss over all
tokens, gathered from all processes, gives each token its gradient; then the parts are encoded again, with a gradient,
and take their share. The sum over parts and processes is the gradient of the one loss: exactly, but for rounding.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from models.encoders import TrainableEncoder
    from models.objectives import Batch

T = TypeVar("T")
Tokens = Mapping[str, Tensor]


class TokenObjective(Protocol):
    """Losses that see a batch only through the tokens of its rows."""

    def encode(self, encoder: "TrainableEncoder", batch: "Batch") -> dict[str, Tensor]:
        """Tokens by name, each (B, ..., D); row i depends on row i of the batch and on nothing else."""
        ...

    def losses(self, tokens: Tokens, temperature: Tensor, batch: "Batch") -> Mapping[str, Tensor]:
        """Named scalars in nats, from the tokens of all rows and the masks of the batch; their sum is minimised."""
        ...


class Processes:
    """The processes that train one network together; alone, there is one.

    They are those of `torchrun` or `accelerate launch`: RANK and WORLD_SIZE in the environment.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        sharded: whether each holds but a part of the weights.
    """

    def __init__(self, cpu: bool = False, sharded: bool = False) -> None:
        """Join the others, if there are any; `cpu` keeps away from GPUs."""
        self.rank, self.size, self.sharded = 0, 1, sharded
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=cpu)
            self.rank, self.size = state.process_index, state.num_processes

    def share(self, rows: int) -> slice:
        """This process's rows of a batch.

        Raises:
            ValueError: if the processes' shares would differ.
        """
        if rows % self.size:
            raise ValueError(f"a batch of {rows} cannot be shared evenly by {self.size} processes; change batch_size")
        each = rows // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, own: Tensor) -> Tensor:
        """(size x b, ...): every process's (b, ...), in the order of their ranks; no gradient."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def agree(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all of them: a decision that must not differ by a rounding."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(box)
        found: T = box[0]
        return found


def cached_gradients(
    encoder: "TrainableEncoder",
    objective: TokenObjective,
    batch: "Batch",
    weights: Sequence[nn.Parameter],
    *,
    rows: int | None,
    start: Callable[[int], None],
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[Any]],
    check: Callable[[Mapping[str, Tensor]], Tensor],
) -> Tensor:
    """Leave the gradient of the loss over the whole batch in `weights`; return the loss.

    Args:
        encoder: in training mode.
        objective: what is minimised.
        batch: this process's rows, with the masks of the whole batch.
        weights: what is trained; their `grad` is replaced.
        rows: encoded at once; None: all of this process's.
        start: called with the number of a part, counted over all processes, before each of its two passes, or its one
            if there is no other part: it has to set the seed of dropout, or the passes would differ.
        processes: who else has rows of this batch.
        autocast: the context in which the network computes.
        check: from named losses to their sum; it may refuse them.

    Raises:
        ValueError: if the processes' batches do not make up the whole one.
    """
    own, whole = len(batch.modifications), batch.whole
    if own * processes.size != whole:
        raise ValueError(f"{processes.size} processes with {own} rows each, but the batch's masks speak of {whole}")
    step = rows or own
    spans = [slice(first, min(first + step, own)) for first in range(0, own, step)]
    before = processes.rank * len(spans)

    def encode(number: int) -> dict[str, Tensor]:
        start(before + number)
        with autocast():
            return objective.encode(encoder, batch.part(spans[number]))

    alone = len(spans) == 1  # then the first pass has the gradient, and there is no second
    with torch.set_grad_enabled(alone):
        parts = [encode(number) for number in range(len(spans))]
    own_tokens = {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}
    tokens = {name: processes.gather(found).requires_grad_() for name, found in own_tokens.items()}
    for weight in weights:
        weight.grad = None
    with autocast():
        loss = check(objective.losses(tokens, encoder.temperature, batch))
    loss.backward()  # type: ignore[no-untyped-call]
    # Every process has just computed the same; what it adds below comes from its own rows alone.
    heat, encoder.temperature.grad = encoder.temperature.grad, None
    share = slice(processes.rank * own, (processes.rank + 1) * own)
    slopes = {name: gathered.grad[share] for name, gathered in tokens.items() if gathered.grad is not None}
    for number, span in enumerate(spans):
        found = parts[0] if alone else encode(number)
        learned = [name for name in slopes if found[name].requires_grad]  # texts may be frozen
        torch.autograd.backward([found[name] for name in learned], [slopes[name][span] for name in learned])
    if not processes.sharded:  # else each part of a gradient has come from all processes to its place
        processes.add([weight.grad for weight in weights if weight.grad is not None])
    encoder.temperature.grad = heat
    return loss.detach()
