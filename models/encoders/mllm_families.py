"""How each family of MLLMs sees an image: pixels, the tower's features, and the vectors that the language model reads.

A family is one class, found by the `model_type` of a checkpoint's config. The tower's features are what a frozen
tower computes once per image; the adapter, from there to the language model, runs at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_window_index

from models.encoders import MLLMS
from models.encoders.mllm_family import Part, Resolution, dtype_of, plain
from models.encoders.mllm_phi import Phi3V, Phi4

# Vectors of an image where the family leaves the choice: 448 x 448 pixels of Qwen's 28 x 28.
IMAGE_TOKENS = 256


class Llava:
    """LLaVA (`llava`): a tower, a projector, a language model; every image is one square.

    "dynamic" resolution shows the square and, each as another square, the two halves along the longer side: three
    times the vectors. It is LLaVA-NeXT's tiling in its smallest form; a checkpoint was not trained with it.
    """

    prefixes: ClassVar[dict[Part, tuple[str, ...]]] = {
        "tower": ("model.vision_tower.",),
        "adapter": ("model.multi_modal_projector.",),
        "language": ("model.language_model.",),
    }

    def __init__(self, model: Any, image_processor: Any, resolution: Resolution, image_tokens: int | None) -> None:
        if image_tokens is not None:
            raise ValueError("a LLaVA's images have as many tokens as its tower has patches: leave out image_tokens")
        self._inner, self._processor = model.model, image_processor
        self._dynamic = resolution == "dynamic"
        self._config = model.config
        self.image_id = int(model.config.image_token_index)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 3, S, S), or (B, 3, 3, S, S): the whole and its halves."""
        views = [view for image in images for view in (image, *(_halves(image) if self._dynamic else ()))]
        batch = self._processor(images=views, return_tensors="pt", input_data_format="channels_last")
        found: Tensor = batch["pixel_values"]
        return found.view(len(images), 3, *found.shape[1:]) if self._dynamic else found

    def tower(self, pixels: Tensor) -> Tensor:
        """(B, P, W); P is that of all views."""
        views = pixels.flatten(0, 1) if self._dynamic else pixels
        tower = self._inner.vision_tower
        states = tower(views.to(tower.device, tower.dtype), output_hidden_states=True, return_dict=True).hidden_states
        layers = self._config.vision_feature_layer
        chosen = torch.cat([states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], dim=-1)
        if self._config.vision_feature_select_strategy == "default":
            chosen = chosen[:, 1:]
        return chosen.reshape(len(pixels), -1, chosen.shape[-1])

    def adapted(self, vision: Tensor) -> list[Tensor]:
        projector = self._inner.multi_modal_projector
        return list(projector(vision.to(dtype_of(projector))))

    def hidden(self, embeds: Tensor, mask: Tensor, ids: Tensor, vision: Tensor | None) -> Tensor:
        return plain(self._inner.language_model, embeds, mask)


class Qwen:
    """Qwen2-VL and Qwen2.5-VL: patches of 14 pixels, four of which become one vector; positions in three dimensions.

    "fixed" squashes every image to one square, "dynamic" keeps its shape; either has at most `image_tokens` vectors.
    The first row of an image's features holds its height and width in patches, rows beyond its patches are zero: so
    images of all shapes have features of one shape.
    """

    prefixes: ClassVar[dict[Part, tuple[str, ...]]] = {
        "tower": ("model.visual.patch_embed.", "model.visual.blocks."),
        "adapter": ("model.visual.merger.",),
        "language": ("model.language_model.",),
    }

    def __init__(self, model: Any, image_processor: Any, resolution: Resolution, image_tokens: int | None) -> None:
        self._inner, self._processor = model.model, image_processor
        self._config = model.config.vision_config
        self._dynamic = resolution == "dynamic"
        self._merge = int(self._config.spatial_merge_size)
        self._tokens = image_tokens or IMAGE_TOKENS
        self.image_id = int(model.config.image_token_id)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 1 + P, 3 x 2 x patch x patch)."""
        unit = self._merge * int(self._config.patch_size)
        side = math.isqrt(self._tokens) * unit
        shown = []
        for image in images:
            size = (side, side)
            if self._dynamic:
                least = 4 * unit * unit
                height, width = smart_resize(image.height, image.width, unit, least, self._tokens * unit * unit)
                size = (width, height)
            shown.append(image.resize(size, Image.Resampling.BICUBIC))
        found = self._processor(images=shown, do_resize=False, return_tensors="pt", input_data_format="channels_last")
        patches = found["pixel_values"].split(found["image_grid_thw"].prod(dim=1).tolist())
        return self._packed(list(patches), found["image_grid_thw"])

    def tower(self, pixels: Tensor) -> Tensor:
        """(B, 1 + P, W), without the window order that Qwen2.5-VL computes in."""
        visual = self._inner.visual
        patches, grid = self._unpacked(pixels.to(visual.device))
        flat = torch.cat(patches).to(visual.dtype)
        found = visual(flat, grid_thw=grid, return_dict=True).last_hidden_state
        if hasattr(visual, "window_size"):
            order, _ = get_vision_window_index(grid, self._merge, visual.window_size, visual.patch_size)
            groups = found.unflatten(0, (-1, self._merge**2))
            found = groups[torch.argsort(order.to(found.device))].flatten(0, 1)
        return self._packed(list(torch.split(found, grid.prod(dim=1).tolist())), grid)

    def adapted(self, vision: Tensor) -> list[Tensor]:
        patches, grid = self._unpacked(vision)
        merger = self._inner.visual.merger
        merged: Tensor = merger(torch.cat(patches).to(dtype_of(merger)))
        return list(torch.split(merged, (grid.prod(dim=1) // self._merge**2).tolist()))

    def hidden(self, embeds: Tensor, mask: Tensor, ids: Tensor, vision: Tensor | None) -> Tensor:
        grid = None if vision is None else self._unpacked(vision)[1]
        kinds = (ids == self.image_id).int()
        places, _ = self._inner.get_rope_index(ids, kinds, image_grid_thw=grid, attention_mask=mask)
        found: Tensor = self._inner.language_model(
            inputs_embeds=embeds, attention_mask=mask.long(), position_ids=places, use_cache=False
        ).last_hidden_state
        return found

    def _packed(self, patches: list[Tensor], grid: Tensor) -> Tensor:
        most = self._tokens * self._merge**2
        packed = patches[0].new_zeros(len(patches), 1 + most, patches[0].shape[-1])
        packed[:, 0, :2] = grid[:, 1:].to(packed)
        for row, found in enumerate(patches):
            packed[row, 1 : 1 + len(found)] = found
        return packed

    def _unpacked(self, packed: Tensor) -> tuple[list[Tensor], Tensor]:
        """The patches of each image, and (B, 3): 1, height, width."""
        sides = packed[:, 0, :2].float().round().long()
        grid = torch.cat([sides.new_ones(len(sides), 1), sides], dim=1)
        return [row[1 : 1 + int(size.prod())] for row, size in zip(packed, grid, strict=True)], grid


FAMILIES: dict[str, type[Llava | Qwen | Phi4]] = dict(zip(MLLMS, (Llava, Qwen, Qwen, Phi4, Phi3V), strict=True))


def _halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    if width >= height:
        return image.crop((0, 0, (width + 1) // 2, height)), image.crop((width // 2, 0, width, height))
    return image.crop((0, 0, width, (height + 1) // 2)), image.crop((0, height // 2, width, height))
