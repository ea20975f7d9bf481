"""LoRA inside an MLLM: put in for training, added to the weights when they are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

NAME = "default"


def add_lora(model: nn.Module, prefixes: Iterable[str], rank: int, alpha: float, dropout: float, seed: int) -> None:
    """Put low-rank matrices beside every linear layer whose name begins with one of the prefixes; A drawn by the seed,
    B zero, so that nothing changes at first. They are float32 whatever the weights are.

    Raises:
        ValueError: if there is no such layer.
    """
    begins = tuple(prefixes)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if name.startswith(begins)]
    if not targets:
        raise ValueError(f"no linear layer below {', '.join(begins)}; LoRA has nothing to work on")
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, parameter in model.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()


def is_lora(name: str) -> bool:
    """Whether a weight of this name is one of LoRA's."""
    return f".lora_A.{NAME}." in name or f".lora_B.{NAME}." in name


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights as if there had never been LoRA, its product added; the model stays as it is."""
    layers: dict[str, Any] = {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
    state = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner in layers:
            if leaf == "weight":
                tensor = (tensor.float() + layers[owner].get_delta_weight(NAME).detach().float()).to(tensor.dtype)
            name = f"{owner}.{leaf}"
        state[name] = tensor
    return state
