"""Saving models in the form of published checkpoints, so that every engine reads them."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

# Names in transformers 5 -> names in the published LLaVA checkpoints, which transformers and vLLM both load. What
# transformers 5 itself would save lacks the "vision_model" that vLLM looks for. The first prefix that fits counts.
_PUBLISHED = (
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def save_llava(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a LLaVA with a CLIP tower as a folder that transformers and vLLM both load.

    Args:
        model: left as it is; its weights are copied to `dtype`.
        processor: with the chat template; what the model's prompts are made with.
        folder: created if missing; files of the same names are overwritten.
        dtype: of the saved weights, and of a model loaded with dtype="auto".

    Raises:
        ValueError: if the model has weights that published LLaVA checkpoints do not have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in _published(model).items()}
    partial = folder / ".model.safetensors.tmp"
    save_file(weights, partial, metadata={"format": "pt"})
    os.replace(partial, folder / "model.safetensors")
    config = copy.deepcopy(model.config)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = dtype
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _published(model: LlavaForConditionalGeneration) -> Mapping[str, Tensor]:
    tied = model.config.tie_word_embeddings
    renamed: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue  # the same tensor as the embedding; the config says so
        new = next((new + name.removeprefix(old) for old, new in _PUBLISHED if name.startswith(old)), None)
        if new is None:
            raise ValueError(f"weight {name!r} has no name in published LLaVA checkpoints; is the model another one?")
        renamed[new] = tensor
    return renamed
