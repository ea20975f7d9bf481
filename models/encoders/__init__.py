"""Encoders: images, texts and composed queries as sets of unit vectors, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # importing this package must not cost seconds of torch: the command line imports it too
    from PIL import Image
    from torch import Tensor


class TokenSet(NamedTuple):
    """Sets of vectors, one set per row.

    Attributes:
        tokens: (B, T, D) float32, each vector L2-normalised.
        mask: (B, T) bool, True where the vector counts. A masked vector must never win a maximum.
    """

    tokens: Tensor
    mask: Tensor


class Encoder(Protocol):
    """What ranking, training and evaluation need of a model.

    Attributes:
        digest: what identifies the weights and the preprocessing; part of the key of everything computed with them.
        truncations: texts cut at the model's text length since the encoder was made.
    """

    digest: str
    truncations: int

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """B RGB images of any size, prepared for the vision tower, on the CPU; safe to call from several threads."""
        ...

    def vision_of(self, pixels: Tensor) -> Tensor:
        """(B, P, W) features of the vision tower for B prepared images."""
        ...

    def vision(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, P, W): both of the above, without a gradient."""
        ...

    def image_tokens(self, vision: Tensor) -> TokenSet:
        """(B, T, D) tokens of images, from their vision features."""
        ...

    def text_tokens(self, texts: Sequence[str]) -> TokenSet:
        """(B, 1, D): the one feature of each text, read without any image."""
        ...

    def query_tokens(self, vision: Tensor, texts: Sequence[str]) -> TokenSet:
        """(B, T, D) tokens of composed queries: reference image i together with modification i."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything `load_encoder` needs, in Hugging Face format."""
        ...


def load_encoder(checkpoint: str, device: str = "auto", dtype: str = "auto") -> Encoder:
    """Load the encoder behind a checkpoint's name.

    Args:
        checkpoint: a name in models/checkpoints, a local folder or a Hugging Face id; see `models.checkpoints.resolve`.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        dtype: of the vision tower: "auto" (float16 on CUDA, float32 elsewhere), "float32", "float16", "bfloat16".

    Raises:
        ValueError: if the checkpoint is not a BLIP-2 retrieval model, or the dtype or device is unknown.
    """
    from models.checkpoints import resolve
    from models.encoders.blip2 import Blip2Encoder

    located = resolve(checkpoint)
    revision = None if located.local else located.revision
    return Blip2Encoder.load(located.path_or_id, revision=revision, digest=located.revision, device=device, dtype=dtype)
