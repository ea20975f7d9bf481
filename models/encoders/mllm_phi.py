"""Phi's multimodal models: Phi-4-multimodal, and Phi-3-vision and Phi-3.5-vision with code of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from models.encoders.mllm_family import Part, Resolution, dtype_of, plain


class Phi4:
    """Phi-4-multimodal (`phi4_multimodal`) at fixed resolution: its crop and its overview are the same square."""

    prefixes: ClassVar[dict[Part, tuple[str, ...]]] = {
        "tower": ("model.embed_tokens_extend.image_embed.img_processor.",),
        "adapter": (
            "model.embed_tokens_extend.image_embed.img_projection",
            "model.embed_tokens_extend.image_embed.global_img",
            "model.embed_tokens_extend.image_embed.sub_img",
        ),
        "language": ("model.layers.", "model.norm.", "model.embed_tokens."),
    }

    def __init__(self, model: Any, image_processor: Any, resolution: Resolution, image_tokens: int | None) -> None:
        _only_fixed(model.config.model_type, resolution, image_tokens)
        self._inner = model.model
        self._means, self._deviations = image_processor.image_mean, image_processor.image_std
        self._images = model.model.embed_tokens_extend.image_embed
        self._side = int(model.config.vision_config.image_size)
        self.image_id = int(model.config.vision_config.image_token_id)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 3, S, S), squashed to the square."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self._means, self._deviations))
        squares = [image.resize((self._side, self._side), Image.Resampling.BICUBIC) for image in images]
        raw = torch.stack([torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8) for one in squares])
        scaled = raw.view(len(squares), self._side, self._side, 3).permute(0, 3, 1, 2).float() / 255
        return (scaled - mean) / std

    def tower(self, pixels: Tensor) -> Tensor:
        weight = self._images.img_processor.embeddings.patch_embedding.weight
        cells = self._side // int(self._inner.config.vision_config.patch_size)
        seen = torch.ones(len(pixels), cells, cells, dtype=torch.bool, device=weight.device)
        found: Tensor = self._images.get_img_features(pixels.to(weight), attention_mask=seen)
        return found

    def adapted(self, vision: Tensor) -> list[Tensor]:
        images = self._images
        side = math.isqrt(vision.shape[1])
        rows = vision.to(dtype_of(images.img_projection_up)).view(len(vision), side, side, -1)
        whole = _twice(rows, images.sub_img_feature_extensor, images.global_img_feature_extensor)
        return list(images.img_projection_down(nn.functional.gelu(images.img_projection_up(whole))))

    def hidden(self, embeds: Tensor, mask: Tensor, ids: Tensor, vision: Tensor | None) -> Tensor:
        return plain(self._inner, embeds, mask)


class Phi3V(Phi4):
    """Phi-3-vision and Phi-3.5-vision (`phi3_v`) at fixed resolution, by the code of the checkpoint.

    2 x 2 features of the tower become one, four times as wide, before its rows are laid out as Phi-4's are.
    """

    prefixes: ClassVar[dict[Part, tuple[str, ...]]] = {
        "tower": ("model.vision_embed_tokens.img_processor.",),
        "adapter": (
            "model.vision_embed_tokens.img_projection.",
            "model.vision_embed_tokens.glb_GN",
            "model.vision_embed_tokens.sub_GN",
        ),
        "language": ("model.layers.", "model.norm.", "model.embed_tokens."),
    }

    def __init__(self, model: Any, image_processor: Any, resolution: Resolution, image_tokens: int | None) -> None:
        _only_fixed(model.config.model_type, resolution, image_tokens)
        order = model.config.embd_layer.get("hd_transform_order")
        if order != "sub_glb":
            raise ValueError(f"a phi3_v that shows its images in the order {order!r} is not known, only 'sub_glb'")
        self._inner = model.model
        self._means, self._deviations = image_processor.image_mean, image_processor.image_std
        self._images = model.model.vision_embed_tokens
        self._side = int(self._images.img_processor.config.image_size)
        self.image_id = int(model.config.image_token_id)

    def tower(self, pixels: Tensor) -> Tensor:
        found: Tensor = self._images.get_img_features(pixels.to(next(self._images.img_processor.parameters())))
        return found

    def adapted(self, vision: Tensor) -> list[Tensor]:
        images = self._images
        half = math.isqrt(vision.shape[1]) // 2
        cells = vision.to(dtype_of(images.img_projection)).view(len(vision), half, 2, half, 2, -1)
        rows = cells.transpose(2, 3).flatten(3)
        return list(images.img_projection(_twice(rows, images.sub_GN, images.glb_GN)))


def _twice(rows: Tensor, end: Tensor, between: Tensor) -> Tensor:
    """(B, n, W): a square's (B, S, S, W) features as its crop and as its overview, with what ends a row and parts the
    two."""
    ends = end.to(rows).expand(*rows.shape[:2], 1, -1)
    lines = torch.cat([rows, ends], dim=2).flatten(1, 2)
    return torch.cat([lines, between.to(rows).expand(len(rows), 1, -1), lines], dim=1)


def _only_fixed(kind: str, resolution: Resolution, image_tokens: int | None) -> None:
    if resolution == "dynamic" or image_tokens is not None:
        raise ValueError(f"{kind} is read at fixed resolution with its own number of tokens")
