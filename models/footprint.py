"""How much memory a network takes per row, found by sending one row and then two through it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Widest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the most bytes that what one operation reads and what it gives take together."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        held = {tensor.data_ptr(): tensor.nbytes for tensor in _tensors([args, result])}
        self.bytes = max(self.bytes, sum(held.values()))
        return result


def forward_bytes(forward: Callable[[int], object]) -> int:
    """Bytes per row that a pass without gradients holds at least, at its widest operation.

    Args:
        forward: the pass with so many rows; what it gives is dropped.
    """

    def of(rows: int) -> int:
        with torch.inference_mode(), _Widest() as widest:
            forward(rows)
        return int(widest.bytes)

    return _per_row(of)


def saved_bytes(forward: Callable[[int], object]) -> int:
    """Bytes per row that a pass keeps for its gradients.

    Args:
        forward: the pass with so many rows, as training does it; what it gives is dropped.
    """

    def of(rows: int) -> int:
        held: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            kept = forward(rows)
        del kept  # alive until here, so that no storage takes the place of another that was counted
        return sum(held.values())

    return _per_row(of)


def _per_row(of: Callable[[int], int]) -> int:
    """What a second row adds: weights, which both passes meet, do not count."""
    return max(0, of(2) - of(1))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
