"""Random CLIP, DINO and ViT checkpoints, small enough to build in a test."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from tests.models.tiny_blip2 import WORDS

WIDTH: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2
}  # fmt: skip
PATCHES: dict[str, Any] = {"image_size": 32, "patch_size": 16}


def tiny_clip(folder: Path) -> Path:
    """Images of 32 px and texts of at most 8 tokens, features of 6 values."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    # CLIP reads a text out at its end: the token of this number.
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 8, "eos_token_id": 3, "bos_token_id": 2}
    config = CLIPConfig(
        text_config={**WIDTH, **text, "pad_token_id": 0}, vision_config={**WIDTH, **PATCHES}, projection_dim=6
    )
    saved = _saved(folder, CLIPModel, config)
    BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    return saved


def tiny_dino(folder: Path) -> Path:
    """A DINOv2 for images of 32 px, features of 16 values."""
    config = Dinov2Config(**{**WIDTH, **PATCHES, "mlp_ratio": 2})
    return _saved(folder, Dinov2Model, config)


def tiny_vit(folder: Path) -> Path:
    """A ViT whose checkpoint has no pooling layer."""
    return _saved(folder, ViTModel, ViTConfig(**WIDTH, **PATCHES), add_pooling_layer=False)


def _saved(folder: Path, kind: type[PreTrainedModel], config: Any, **more: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config, **more)
        with torch.no_grad():
            for parameter in model.parameters():  # large enough that inputs give clearly different outputs
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
