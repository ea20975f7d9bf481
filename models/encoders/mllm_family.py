"""What every family of MLLMs has to offer, and what some of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

Resolution = Literal["fixed", "dynamic"]
Part = Literal["tower", "adapter", "language"]


class Family(Protocol):
    """One family around one model.

    Attributes:
        image_id: number of the token that stands for an image.
        prefixes: beginnings of the names of weights that belong to each part; what is in none is not used.
    """

    image_id: int
    prefixes: ClassVar[dict[Part, tuple[str, ...]]]

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """B RGB images, prepared; the shape but for B is the same at every call."""
        ...

    def tower(self, pixels: Tensor) -> Tensor:
        """(B, P, W) features before the adapter, of prepared images."""
        ...

    def adapted(self, vision: Tensor) -> list[Tensor]:
        """(n, H) vectors of each image, in the place of its token."""
        ...

    def hidden(self, embeds: Tensor, mask: Tensor, ids: Tensor, vision: Tensor | None) -> Tensor:
        """(B, L, H) last hidden states of embedded tokens; `vision` of rows with an image."""
        ...


def plain(language: Any, embeds: Tensor, mask: Tensor) -> Tensor:
    """A language model with positions in one dimension, which padding does not shift."""
    places = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
    found: Tensor = language(
        inputs_embeds=embeds, attention_mask=mask.long(), position_ids=places, use_cache=False, return_dict=True
    ).last_hidden_state
    return found


def dtype_of(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
