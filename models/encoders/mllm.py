"""An MLLM as an embedder (InstructCIR, arXiv 2412.05756): its last hidden state at an appended [EOS].

An image, a caption, or an image with a modification becomes one turn of the model's chat, worded by a template, with
[EOS] behind it. Attention is causal, so [EOS] alone has read everything; its hidden state, L2-normalised, is the one
token (T = 1) of an `Encoder`. The network is Hugging Face's; see `models.encoders.mllm_families` for which ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from data.keys import digest as digest_of
from models.encoders import TextReading, TokenSet
from models.encoders.files import write_checkpoint
from models.encoders.mllm_families import FAMILIES
from models.encoders.mllm_family import Family, Part, Resolution
from models.encoders.mllm_lora import add_lora, is_lora, merged_state
from models.encoders.mllm_text import BARE, Layout, Templates, Turn
from models.encoders.placement import weights_digest

TEMPERATURE = 0.05
# InstructCIR's length of a turn.
MAX_TEXT_TOKENS = 512
PARTS: tuple[Part, ...] = get_args(Part)
# Turns that are padded to one length; on a GPU, fewer and larger calls are faster.
LENGTH_GROUP = {"cpu": 16, "cuda": 64}


class MllmEncoder(nn.Module):
    """An `Encoder` around a multimodal language model.

    Attributes:
        model: the Hugging Face model.
        temperature: scalar parameter, > 0, divides cosines; learned with the rest and kept in `cirque.json`.
        templates: what is said around images, captions and queries; see `use`.
        max_text_tokens: a turn is cut to so many tokens, its image counted as one.
        resolution: how images are shown.
        image_tokens: vectors of an image, where the family leaves the choice; None: its default.
        padding: on which side shorter turns are filled up; the embeddings are the same.
        variety: sets of templates that training draws from, for each turn anew; empty: always `templates`.
        takes_pixels: whether the tower is trained; see `TrainableEncoder`.
        halved: whether `embed` computes in bfloat16 whatever the weights are, as training may have done.
        truncations: how many turns were cut so far.
        digest: identity of weights, preprocessing and templates; empty for a model that was never saved.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        *,
        temperature: float = TEMPERATURE,
        max_text_tokens: int | None = None,
        templates: Templates = BARE,
        resolution: Resolution = "fixed",
        image_tokens: int | None = None,
        digest: str = "",
    ) -> None:
        """Wrap a model of one of `FAMILIES`; a ValueError for any other, or for settings that it cannot follow."""
        super().__init__()
        kind = model.config.model_type
        if kind not in FAMILIES:
            raise ValueError(f"no MLLM of type {kind!r} can embed here; there is {', '.join(FAMILIES)}")
        if resolution not in get_args(Resolution):
            raise ValueError(f"resolution must be fixed or dynamic, got {resolution!r}")
        # Measured on Zen 5: in bfloat16 the CPU's fused attention is slower than plain matrix products.
        if not model.is_custom_code():  # which chooses its attention when it is loaded
            model.set_attn_implementation("eager" if model.device.type == "cpu" else "sdpa")
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.max_text_tokens = max_text_tokens or MAX_TEXT_TOKENS
        self.templates = templates
        self.resolution: Resolution = resolution
        self.image_tokens_wanted = image_tokens
        self.padding: Literal["left", "right"] = "right"
        self.variety: tuple[Templates, ...] = ()
        self.takes_pixels = False
        self.halved = False
        self.truncations = 0
        self.digest = digest
        self._own = (templates, digest)
        self._family: Family = FAMILIES[kind](model, image_processor, resolution, image_tokens)
        self._layout = Layout(tokenizer, self._family.image_id, self.max_text_tokens)
        self._trained: list[str] = [name for name, _ in self.named_parameters()]

    # -- inputs ------------------------------------------------------------------------------------------------

    def use(self, templates: Templates | None) -> None:
        """Read with other templates from now on; None: with the checkpoint's own. They are part of the digest."""
        own, digest = self._own
        self.templates = templates or own
        if templates is None or templates == own or not digest:
            self.digest = digest
        else:
            self.digest = digest_of({"checkpoint": digest, "templates": asdict(templates)})

    def show(self, resolution: Resolution | None, image_tokens: int | None) -> None:
        """Show images otherwise from now on; None: as before. A ValueError if the family cannot."""
        self.resolution = resolution or self.resolution
        self.image_tokens_wanted = image_tokens or self.image_tokens_wanted
        settings = (self.model, self.image_processor, self.resolution, self.image_tokens_wanted)
        self._family = FAMILIES[self.model.config.model_type](*settings)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, ...) float32 on the CPU: RGB images of any size as the family's tower takes them."""
        if not images:
            raise ValueError("no images: an encoder needs at least one")
        return self._family.pixels(images)

    def cut_texts(self, texts: Sequence[str]) -> int:
        """How many of the texts, as modifications, make a turn longer than `max_text_tokens`."""
        return self._layout.too_long([Turn(self.templates.query, text, True) for text in texts]) if texts else 0

    # -- the passes --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.temperature.device

    @torch.no_grad()
    def vision(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, P, W) features of the vision tower, before the adapter; no gradient."""
        return self.vision_of(self.pixels(images))

    def vision_of(self, pixels: Tensor) -> Tensor:
        """(B, P, W) features of prepared images; with a gradient if the tower is trained."""
        return self._family.tower(pixels)

    def image_tokens(self, vision: Tensor) -> TokenSet:
        """(B, 1, D) embeddings of images, from their features."""
        return self._set([Turn(said, "", True) for said in self._said("image", len(vision))], vision)

    def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
        """(B, 1, D) embeddings of captions.

        Raises:
            ValueError: for a reading of the Q-Former's.
        """
        if reading != "cls":
            raise ValueError(f"an MLLM reads a text in one way, so reading must be cls, got {reading!r}")
        said = self._said("caption", len(texts))
        return self._set([Turn(template, text, False) for template, text in zip(said, texts, strict=True)], None)

    def query_tokens(self, vision: Tensor, texts: Sequence[str]) -> TokenSet:
        """(B, 1, D) embeddings of composed queries: features (B, P, W) and B modifications, row by row.

        Raises:
            ValueError: if there are not as many texts as images.
        """
        if len(vision) != len(texts):
            raise ValueError(f"a query is one image and one text, got {len(vision)} images and {len(texts)} texts")
        said = self._said("query", len(texts))
        return self._set([Turn(template, text, True) for template, text in zip(said, texts, strict=True)], vision)

    def _said(self, kind: Literal["image", "caption", "query"], count: int) -> list[str]:
        """A template for each of some turns: in training drawn from a set, if there is one, by torch's generator."""
        if self.training and self.variety:
            return [getattr(self.variety[int(place)], kind) for place in torch.randint(len(self.variety), (count,))]
        return [getattr(self.templates, kind)] * count

    def _set(self, turns: Sequence[Turn], vision: Tensor | None) -> TokenSet:
        tokens = self.embed(turns, vision).unsqueeze(1)
        return TokenSet(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def embed(self, turns: Sequence[Turn], vision: Tensor | None) -> Tensor:
        """(B, D) float32 unit vectors of turns that all have an image, or that all have none.

        Args:
            turns: at least one.
            vision: (B, P, W) features of their images, or None.
        """
        if not turns:
            raise ValueError("nothing to embed: an encoder needs at least one text or image")
        if vision is not None and self.takes_pixels:
            vision = self._family.tower(vision)
        rows, cut = self._layout.ids(turns)
        self.truncations += cut
        # In groups of like length, so that a long text does not pad all the others.
        order = torch.tensor([len(row) for row in rows]).argsort(stable=True)
        groups = torch.split(order, LENGTH_GROUP[self.device.type])
        with torch.autocast(self.device.type, torch.bfloat16) if self.halved else nullcontext():
            found = [
                self._last([rows[at] for at in group], None if vision is None else vision[group.to(vision.device)])
                for group in groups
            ]
        states = torch.cat(found)[order.argsort().to(found[0].device)]
        return functional.normalize(states.float(), dim=-1)

    def _last(self, rows: list[list[int]], vision: Tensor | None) -> Tensor:
        """(B, H) hidden states at [EOS]."""
        seen = [] if vision is None else self._family.adapted(vision.to(self.device))
        image = self._family.image_id
        for place, found in enumerate(seen):
            at = rows[place].index(image)
            rows[place] = [*rows[place][:at], *[image] * len(found), *rows[place][at + 1 :]]
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self.tokenizer.eos_token_id)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for place, row in enumerate(rows):
            span = slice(0, len(row)) if self.padding == "right" else slice(length - len(row), length)
            ids[place, span] = torch.tensor(row)
            mask[place, span] = True
        ids, mask = ids.to(self.device), mask.to(self.device)
        embeds = self.model.get_input_embeddings()(ids)
        if seen:
            embeds = embeds.masked_scatter((ids == image).unsqueeze(-1), torch.cat(seen).to(embeds.dtype))
        hidden = self._family.hidden(embeds, mask, ids, vision)
        ends = mask.sum(dim=1) - 1 if self.padding == "right" else torch.full((len(rows),), length - 1)
        return hidden[torch.arange(len(rows)), ends]

    # -- training ----------------------------------------------------------------------------------------------

    def prepare(
        self, parts: Sequence[Part], *, rank: int | None, alpha: float = 16.0, dropout: float = 0.0, seed: int = 0
    ) -> None:
        """Choose what is trained.

        Args:
            parts: of "tower", "adapter", "language".
            rank: of LoRA beside all linear layers of these parts; None: their own weights.
            alpha, dropout: of LoRA; its product is scaled by alpha / rank.
            seed: of LoRA's first weights.
        """
        self.takes_pixels = "tower" in parts
        prefixes = [prefix for part in parts for prefix in self._family.prefixes[part]]
        if rank is not None:
            add_lora(self.model, prefixes, rank, alpha, dropout, seed)
            chosen = [name for name, _ in self.model.named_parameters() if is_lora(name)]
        else:
            chosen = [name for name, _ in self.model.named_parameters() if name.startswith(tuple(prefixes))]
        self._trained = [*(f"model.{name}" for name in chosen), "temperature"]

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What `prepare` chose, and the temperature; without it, everything."""
        chosen = set(self._trained)
        for name, parameter in self.named_parameters():
            if name in chosen:
                yield name, parameter

    def weights_of(self, part: Part) -> Iterator[nn.Parameter]:
        """The weights of one part."""
        prefixes = self._family.prefixes[part]
        return (weight for name, weight in self.model.named_parameters() if name.startswith(prefixes))

    def tower_digest(self) -> str:
        """Identity of the tower's weights, and of how it is shown images."""
        tower = [(k, v) for k, v in merged_state(self.model).items() if k.startswith(self._family.prefixes["tower"])]
        shown = [self.resolution, self.image_tokens_wanted, self.image_processor.to_dict()]
        return digest_of([json.loads(json.dumps(shown, default=str)), weights_digest(tower)])

    def set_dropout(self, probability: float) -> None:
        """These networks have no dropout, so only 0 is possible; LoRA's is set by `prepare`."""
        if probability:
            raise ValueError(f"an MLLM has no dropout of its own to set to {probability}; use LoRA's")

    # -- files -------------------------------------------------------------------------------------------------

    def save(self, folder: Path, dtype: str | None = None) -> None:
        """Write the model with LoRA merged, tokenizer and image processor in Hugging Face format, and `cirque.json`.

        Args:
            folder: made if missing; files of the same names are replaced.
            dtype: of the written weights; None keeps each as it is.
        """
        facts = {
            "embedder": "eos",
            "temperature": self.temperature.item(),
            "templates": asdict(self.templates),
            "max_text_tokens": self.max_text_tokens,
            "resolution": self.resolution,
            "image_tokens": self.image_tokens_wanted,
        }
        readers = (self.tokenizer, self.image_processor)
        write_checkpoint(folder, self.model, merged_state(self.model), readers, facts, dtype)
