"""Weights that several processes share: each holds a part of every weight, of its gradient and of what AdamW keeps.

It is torch's FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv 2304.11277) over the processes that accelerate has joined.
Accelerate's own plugin is not used: it shards on accelerators only, and what it prepares is called by `forward`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from models.encoders import TrainableEncoder


def shard(encoder: TrainableEncoder, processes: int) -> None:
    """Leave each process its part of an encoder's weights, in place; what needs a layer's weights gathers them.

    The blocks of the network are gathered one after the other. The temperature stays whole, and so does a frozen tower,
    which runs outside of the steps.

    Raises:
        ValueError: for another encoder than an MLLM: a Q-Former is small.
    """
    from models.encoders.mllm import MllmEncoder

    if not isinstance(encoder, MllmEncoder):
        raise ValueError("resources.sharded shares the weights of a multimodal language model; leave it off here")
    mesh = init_device_mesh(encoder.device.type, (processes,))
    kept = {encoder.temperature, *(() if encoder.takes_pixels else encoder.weights_of("tower"))}
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    blocks = [block for one in reversed(lists) for block in one if kept.isdisjoint(block.parameters())]
    for module in (*blocks, encoder):
        unit = fully_shard(module, mesh=mesh, ignored_params=kept, reshard_after_forward=True)
        unit.set_gradient_divide_factor(1.0)  # a loss of the whole batch: shares of its gradient add up
        unit.set_force_sum_reduction_for_comms(True)  # gloo cannot scale within the sum
    register_fsdp_forward_method(encoder, "embed")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this process may hold a part; all processes have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, as it has a part of `like`; all of it where that is whole."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of an optimiser's state, whole and on the CPU."""
    state = optimiser.state_dict()
    found = {
        place: {name: whole(value).cpu().clone() for name, value in values.items()}
        for place, values in state["state"].items()
    }
    return {**state, "state": found}


def load_whole_state(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from what `whole_state` gave, with as many processes or with others."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    found = {
        place: {name: share_like(value, weights[place]) if value.ndim else value for name, value in values.items()}
        for place, values in state["state"].items()
    }
    optimiser.load_state_dict({**state, "state": found})


def gathered(encoder: TrainableEncoder) -> None:
    """Put whole weights, on the CPU, in the place of parts; the encoder is then there to be saved, not to run."""
    assert isinstance(encoder, nn.Module)
    found: dict[int, nn.Parameter] = {}
    for module in encoder.modules():
        for name, weight in module.named_parameters(recurse=False):
            if isinstance(weight, DTensor):
                if id(weight) not in found:  # weights may be tied
                    found[id(weight)] = nn.Parameter(weight.full_tensor().cpu(), requires_grad=False)
                setattr(module, name, found[id(weight)])


def clip_gradients(weights: Iterable[nn.Parameter], most: float) -> float:
    """Scale the gradients of whole and of shared weights alike, so that their norm is at most `most`; return the norm
    that they had."""
    kinds: dict[bool, list[nn.Parameter]] = {}
    slopes: dict[bool, list[Tensor]] = {}
    for weight in weights:
        if weight.grad is not None:
            kinds.setdefault(isinstance(weight, DTensor), []).append(weight)
            slopes.setdefault(isinstance(weight, DTensor), []).append(weight.grad)
    norm = torch.stack([whole(nn.utils.get_total_norm(kind)) for kind in slopes.values()]).norm()
    for kind in kinds.values():
        nn.utils.clip_grads_with_norm_(kind, most, norm)
    return float(norm)
