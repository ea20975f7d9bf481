"""One vector per image from a model of Hugging Face's: CLIP, SigLIP, DINO, ViT and their like.

Such a model ranks images as another view beside BLIP-2's tokens; it composes no queries. A model of images and texts
(CLIP, SigLIP) also embeds captions. Images are prepared by the checkpoint's own image processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from models.encoders import TokenSet
from models.encoders.files import loading
from models.encoders.placement import DTYPES, resolve_device, resolve_dtype


class EmbeddingEncoder(nn.Module):
    """An `ImageEncoder` with one token: the model's own pooled feature of an image, and of a text if it reads any.

    Attributes:
        model: the Hugging Face model.
        digest: identity of weights and preprocessing.
        truncations: texts cut at the model's length so far.
    """

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any | None, *, pooled: bool, digest: str) -> None:
        """Wrap a model.

        Args:
            model: with `get_image_features`, or an image model with hidden states.
            image_processor: prepares pixels.
            tokenizer: None for a model of images alone.
            pooled: whether the checkpoint's pooling layer can be used; else [CLS], or the mean of a feature map.
            digest: what to report as this encoder's identity.
        """
        super().__init__()
        self.model = model
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.digest = digest
        self.truncations = 0
        self._pooled = pooled

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        place: torch.device = next(self.model.parameters()).device
        return place

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 3, H, W) float32 on the CPU, prepared by the checkpoint's image processor."""
        if not images:
            raise ValueError("no images: an encoder needs at least one")
        pixels: Tensor = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels

    def vision_of(self, pixels: Tensor) -> Tensor:
        """(B, 1, D): the feature of each prepared image, not normalised."""
        dtype = next(self.model.parameters()).dtype
        shown = pixels.to(self.device, dtype)
        if hasattr(self.model, "get_image_features"):
            return self._feature(self.model.get_image_features(pixel_values=shown))
        return self._feature(self.model(pixel_values=shown))

    def image_tokens(self, vision: Tensor) -> TokenSet:
        """(B, 1, D), L2-normalised, from the features of `vision_of`."""
        tokens = functional.normalize(vision.float(), dim=-1)
        return TokenSet(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def text_tokens(self, texts: Sequence[str]) -> TokenSet:
        """(B, 1, D): the feature of each text, L2-normalised.

        Raises:
            ValueError: if the model reads no texts.
        """
        if self.tokenizer is None or not hasattr(self.model, "get_text_features"):
            kind = self.model.config.model_type
            raise ValueError(
                f"a {kind} model reads images alone; for captions name a CLIP, SigLIP or BLIP-2 checkpoint"
            )
        limit = self.model.config.text_config.max_position_embeddings
        lengths = [len(row) for row in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        self.truncations += sum(length > limit for length in lengths)
        # Padded to the full length, as SigLIP was trained; CLIP masks it.
        padded = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        )
        return self.image_tokens(self._feature(self.model.get_text_features(**padded.to(self.device))))

    def _feature(self, found: Any) -> Tensor:
        """(B, 1, D) from what the model returns."""
        if isinstance(found, Tensor):
            return found.unsqueeze(1)
        if self._pooled and found.pooler_output is not None:
            pooled: Tensor = found.pooler_output
            return pooled.flatten(1).unsqueeze(1)
        hidden: Tensor = found.last_hidden_state
        return hidden[:, :1] if hidden.ndim == 3 else hidden.flatten(2).mean(dim=2).unsqueeze(1)

    @classmethod
    def load(cls, source: str, *, revision: str | None, digest: str, device: str = "auto", dtype: str = "auto") -> Self:
        """Load a folder or a Hugging Face id, in evaluation mode; arguments as of `Blip2Encoder.load`.

        Raises:
            ValueError: if weights are missing or misshapen.
        """
        place = resolve_device(device)
        with loading():
            model, report = AutoModel.from_pretrained(
                source, revision=revision, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
        pooled, processor = _checked(source, report), _image_processor(source, revision)
        dual = hasattr(model, "get_text_features")
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision) if dual else None
        model = model.to(place, DTYPES[resolve_dtype(dtype, place)])
        return cls(model, processor, tokenizer, pooled=pooled, digest=digest).eval()


def _checked(source: str, report: Mapping[str, Any]) -> bool:
    """Whether the pooling layer is there; refuses a checkpoint with other gaps."""
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    pooler = [name for name in wrong if name.startswith("pooler.")]
    others = [name for name in wrong if name not in pooler]
    if others:
        raise ValueError(
            f"{source} is not a whole model: {len(others)} weights are missing or misshapen, such as {others[0]}"
        )
    return not pooler


def _image_processor(source: str, revision: str | None) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} says not how its images are prepared; it needs a preprocessor_config.json ({error})"
        ) from error
