"""Encoders: images, texts and composed queries as sets of unit vectors, behind one interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # importing this package must not cost seconds of torch: the command line imports it too
    import torch
    from PIL import Image
    from torch import Tensor, nn

MLLMS = ("llava", "qwen2_vl", "qwen2_5_vl", "phi4_multimodal", "phi3_v")
"""Types of multimodal language models that can embed, as their configs name them."""
TextReading = Literal["cls", "query_ffn", "text_ffn"]
"""How a text is read without an image.

- cls: BLIP-2's own: the text alone, one vector, its [CLS].
- query_ffn: with the query tokens, which give the vectors. Cross-attention is skipped, and the query tokens keep the
  feed-forward that they were trained with.
- text_ffn: likewise, but the query tokens go through the text's feed-forward. This is what SPRC's changed LAVIS does
  without an image (Qformer.py tests for the image instead of for the query tokens).

MVFT-JI (arXiv 2505.19707) reads texts with query tokens and does not say in which of the two ways.
"""


class TokenSet(NamedTuple):
    """Sets of vectors, one set per row.

    Attributes:
        tokens: (B, T, D) float32, each vector L2-normalised.
        mask: (B, T) bool, True where the vector counts. A masked vector must never win a maximum.
    """

    tokens: Tensor
    mask: Tensor


class ImageEncoder(Protocol):
    """What ranking needs of a model: images as token sets, and captions if it reads texts.

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

    def image_tokens(self, vision: Tensor) -> TokenSet:
        """(B, T, D) tokens of images, from their vision features."""
        ...

    def text_tokens(self, texts: Sequence[str]) -> TokenSet:
        """(B, 1, D): the one feature of each text, read without any image; a ValueError if the model reads none."""
        ...


class Encoder(ImageEncoder, Protocol):
    """What training and evaluation need besides: composed queries, and texts read in every way."""

    def vision(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, P, W) features of the vision tower for B images, without a gradient."""
        ...

    def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
        """Texts without an image: (B, 1, D) for "cls", else (B, T, D); see `TextReading`."""
        ...

    def query_tokens(self, vision: Tensor, texts: Sequence[str]) -> TokenSet:
        """(B, T, D) tokens of composed queries: reference image i together with modification i."""
        ...

    def cut_texts(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads; `truncations` does not change."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything `load_encoder` needs, in Hugging Face format."""
        ...

    def eval(self) -> Any:
        """Switch dropout off."""
        ...


class TrainableEncoder(Encoder, Protocol):
    """An encoder as the training loop takes it: a torch module besides.

    Attributes:
        temperature: scalar > 0, divides cosines in a contrastive loss.
        takes_pixels: whether its tower is trained too: `image_tokens` and `query_tokens` then take prepared pixels
            where they else take the tower's features.
    """

    temperature: nn.Parameter
    takes_pixels: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What training may change, the temperature included, by name."""
        ...

    def set_dropout(self, probability: float) -> None:
        """Set the dropout of the part that is trained."""
        ...

    def tower_digest(self) -> str:
        """Identity of the vision tower's weights and of how it is shown images, for features that are kept."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on."""
        ...


def load_encoder(
    checkpoint: str, device: str = "auto", dtype: str = "auto", max_text_tokens: int | None = None
) -> TrainableEncoder:
    """Load the encoder behind a checkpoint's name.

    Args:
        checkpoint: a name in models/checkpoints, a local folder or a Hugging Face id; see `models.checkpoints.resolve`.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        dtype: of the vision tower: "auto" (float16 on CUDA, float32 elsewhere), "float32", "float16", "bfloat16".
        max_text_tokens: where texts are cut; None for the checkpoint's own limit.

    Raises:
        FileNotFoundError, LookupError: if there is no such checkpoint.
        ValueError: if it is neither a BLIP-2 retrieval model nor an MLLM that embeds, or dtype or device is unknown.
        PermissionError: if it runs only with code of its own, and the user has not allowed that.
    """
    from models.checkpoints import resolve
    from models.encoders.remote_code import published_config

    located = resolve(checkpoint)
    revision = None if located.local else located.revision
    settings: dict[str, Any] = {
        "revision": revision, "digest": located.revision, "device": device, "dtype": dtype,
        "max_text_tokens": max_text_tokens,
    }  # fmt: skip
    if published_config(located.path_or_id, revision).get("model_type") in MLLMS:
        from models.encoders.mllm_load import load_mllm

        return load_mllm(located.path_or_id, **settings)
    from models.encoders.blip2 import Blip2Encoder

    return Blip2Encoder.load(located.path_or_id, **settings)


def load_image_encoder(checkpoint: str, device: str = "auto", dtype: str = "auto") -> ImageEncoder:
    """Load a checkpoint that ranks images: BLIP-2, or any model of Hugging Face's with one vector per image.

    Args:
        checkpoint, device, dtype: as of `load_encoder`.

    Raises:
        FileNotFoundError, LookupError: if there is no such checkpoint.
        ValueError: if it is no model of images.
    """
    from models.checkpoints import resolve
    from models.encoders.remote_code import published_config

    located = resolve(checkpoint)
    revision = None if located.local else located.revision
    if published_config(located.path_or_id, revision).get("model_type") == "blip-2":
        return load_encoder(checkpoint, device, dtype)
    from models.encoders.embedding import EmbeddingEncoder

    return EmbeddingEncoder.load(
        located.path_or_id, revision=revision, digest=located.revision, device=device, dtype=dtype
    )
