"""BLIP-2's first stage as an encoder: image tokens, text feature, and composed query tokens.

The network is Hugging Face's `Blip2ForImageTextRetrieval`, tiny or real (`Salesforce/blip2-itm-vit-g`, or LAVIS's
files by `models.encoders.lavis`); only how its parts are called is ours. Passes through the one Q-Former:

- image: the query tokens look at the image;
- text: the text alone, without query tokens; its [CLS] is the feature;
- composed: query tokens and text attend to each other, and the query tokens to the image. This is the pass of the
  image-text matching head; the query tokens are read out and projected like an image's, so that a composed query and
  an image live in one space;
- text with query tokens but no image, which neither LAVIS nor Hugging Face knows; see `TextReading`.

Text is lower-cased and its white space collapsed; punctuation stays, as in Hugging Face's processor (LAVIS strips it).
Images are squashed to the model's square as in LAVIS and Hugging Face, or padded as in SPRC: the checkpoint says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, Blip2Config
from transformers.masking_utils import create_bidirectional_mask

from data.keys import digest as digest_of
from models.encoders import TextReading, TokenSet
from models.encoders.files import SIDE_FILE, loading, side_facts, write_checkpoint
from models.encoders.fit import FITS, Fit, fit_image
from models.encoders.placement import DTYPES, resolve_device, resolve_dtype, weights_digest
from models.encoders.towers import model_class, set_post_norm

# LAVIS blip2_qformer.py: `temp` starts at 0.07 and divides the cosines. Hugging Face's conversion dropped it.
TEMPERATURE = 0.07
# BLIP-2's own 32 would cut captions and target texts.
MAX_TEXT_TOKENS = 64
# Weights that a file may hold beside the model's: constants that older versions stored.
SPARE = re.compile(r"(.*\.)?position_ids")
# Rows of a composed batch that are padded to one length; on a GPU, fewer and larger calls are faster.
LENGTH_GROUP = {"cpu": 32, "cuda": 256}


class Blip2Encoder(nn.Module):
    """An `Encoder` around a BLIP-2 retrieval model.

    The vision tower runs in its own dtype; the Q-Former, embeddings and projections always hold float32 weights (an
    autocast around a call may compute in less).

    Attributes:
        model: the Hugging Face model.
        temperature: scalar parameter, > 0, divides cosines; learned with the rest and kept in `cirque.json`.
        max_text_tokens: texts are cut here, [CLS] and [SEP] included.
        fit: how images become square.
        truncations: how many texts were cut so far.
        digest: identity of weights and preprocessing; empty for a model that was never saved.
    """

    takes_pixels = False  # the tower is never trained

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        *,
        temperature: float = TEMPERATURE,
        max_text_tokens: int | None = None,
        fit: Fit = "squash",
        digest: str = "",
    ) -> None:
        """Wrap a model; `max_text_tokens` is 64 by default, at least 3 and at most the model's own text positions."""
        super().__init__()
        positions = model.config.qformer_config.max_position_embeddings
        if max_text_tokens is None:
            max_text_tokens = min(MAX_TEXT_TOKENS, positions)
        if not 3 <= max_text_tokens <= positions:
            raise ValueError(f"max_text_tokens must be between 3 and the model's {positions}, got {max_text_tokens}")
        if fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
        if not model.config.qformer_config.use_qformer_text_input:
            raise ValueError("this BLIP-2 has no text layers (use_qformer_text_input is false): not a retrieval model")
        # Measured on Zen 5 and small Q-Formers: the CPU's fused attention is no faster in float32, and in bfloat16 it
        # makes a training step 2.5 times as long as plain matrix products do.
        model.qformer.set_attn_implementation("eager" if model.device.type == "cpu" else "sdpa")
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.max_text_tokens = max_text_tokens
        self.fit = fit
        self.truncations = 0
        self.digest = digest

    # -- inputs ------------------------------------------------------------------------------------------------

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 3, S, S) float32 on the CPU: RGB images of any size, made square by `fit`, normalised."""
        if not images:
            raise ValueError("no images: an encoder needs at least one")
        fitted = [fit_image(image, self.fit, int(self.image_processor.size["height"])) for image in images]
        batch = self.image_processor(images=fitted, return_tensors="pt", input_data_format="channels_last")
        pixels: Tensor = batch["pixel_values"]
        return pixels

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) and their mask (B, L) bool; L is that of the longest text, at most `max_text_tokens`."""
        if not texts:
            raise ValueError("no texts: an encoder needs at least one")
        limit, end = self.max_text_tokens, self.tokenizer.sep_token_id
        whole = self._token_ids(texts)
        self.truncations += sum(len(row) > limit for row in whole)
        rows = [row if len(row) <= limit else [*row[: limit - 1], end] for row in whole]
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):  # padded on the right: [CLS] must stay first
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        # A processor's added tokens (such as "<image>") may lie beyond the embedding table.
        known = ids < self.model.embeddings.word_embeddings.num_embeddings
        return ids.where(known, self.tokenizer.unk_token_id).to(self.device), mask.to(self.device)

    def cut_texts(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than `max_text_tokens`; `truncations` does not change."""
        return sum(len(row) > self.max_text_tokens for row in self._token_ids(texts)) if texts else 0

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        # Not cut here: the tokenizer would not say what it cut.
        cleaned = [" ".join(text.lower().split()) for text in texts]
        rows: list[list[int]] = self.tokenizer(cleaned, verbose=False)["input_ids"]
        return rows

    # -- the passes --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.temperature.device

    @torch.no_grad()
    def vision(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, P, W) vision features in the tower's dtype, [CLS] first; no gradient."""
        return self.vision_of(self.pixels(images))

    def vision_of(self, pixels: Tensor) -> Tensor:
        """(B, P, W) vision features of prepared pixels (B, 3, S, S); with a gradient if the tower is trained."""
        dtype = self.model.vision_model.embeddings.patch_embedding.weight.dtype
        features: Tensor = self.model.vision_model(pixels.to(self.device, dtype)).last_hidden_state
        return features

    def image_tokens(self, vision: Tensor) -> TokenSet:
        """(B, T, D) image tokens from vision features (B, P, W)."""
        queries = self.model.query_tokens.expand(len(vision), -1, -1)
        hidden = self.model.qformer(query_embeds=queries, encoder_hidden_states=vision.to(queries)).last_hidden_state
        return self._read_out(self.model.vision_projection, hidden)

    def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
        """Tokens of texts without an image: (B, 1, D) for "cls", (B, T, D) for the other readings.

        "cls" goes through the text projection; query tokens through that of images, as in a composed query.
        """
        ids, mask = self.tokenize(texts)
        if reading == "cls":
            embedded = self.model.embeddings(input_ids=ids)
            hidden = self.model.qformer(query_embeds=embedded, query_length=0, attention_mask=mask).last_hidden_state
            return self._read_out(self.model.text_projection, hidden[:, :1])
        queries = self.model.query_tokens.expand(len(ids), -1, -1)
        embedded = self.model.embeddings(input_ids=ids, query_embeds=queries)
        count = queries.shape[1]
        mask = torch.cat([mask.new_ones(len(ids), count), mask], dim=1)
        if reading == "text_ffn":
            hidden = self.model.qformer(query_embeds=embedded, query_length=0, attention_mask=mask).last_hidden_state
        elif reading == "query_ffn":
            hidden = self._without_image(embedded, mask, count)
        else:
            raise ValueError(f"reading must be cls, query_ffn or text_ffn, got {reading!r}")
        return self._read_out(self.model.vision_projection, hidden[:, :count])

    def _without_image(self, embedded: Tensor, mask: Tensor, count: int) -> Tensor:
        """Hugging Face's layers one by one, because a whole pass with queries refuses to go without an image."""
        qformer = self.model.qformer
        hidden: Tensor = qformer.dropout(qformer.layernorm(embedded))
        bias = create_bidirectional_mask(config=qformer.config, inputs_embeds=hidden, attention_mask=mask)
        for layer in qformer.encoder.layer:
            attended = layer.attention(hidden, attention_mask=bias)
            parts = (layer.feed_forward_chunk_query(attended[:, :count]), layer.feed_forward_chunk(attended[:, count:]))
            hidden = torch.cat(parts, dim=1)
        return hidden

    def query_tokens(self, vision: Tensor, texts: Sequence[str]) -> TokenSet:
        """(B, T, D) composed tokens: reference features (B, P, W) and B modifications, row by row.

        Raises:
            ValueError: if there are not as many texts as images.
        """
        if len(vision) != len(texts):
            raise ValueError(f"a query is one image and one text, got {len(vision)} images and {len(texts)} texts")
        ids, mask = self.tokenize(texts)
        # In groups of like length, so that a long text does not pad all the others.
        order = mask.sum(dim=1).argsort(stable=True)
        groups = torch.split(order, LENGTH_GROUP[self.device.type])
        hidden = torch.cat([self._composed(vision[rows], ids[rows], mask[rows]) for rows in groups])
        return self._read_out(self.model.vision_projection, hidden[order.argsort()])

    def _composed(self, vision: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        length = int(mask.sum(dim=1).max())
        ids, mask = ids[:, :length], mask[:, :length]
        queries = self.model.query_tokens.expand(len(vision), -1, -1)
        count = queries.shape[1]
        hidden: Tensor = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=count,  # cross-attention and the query feed-forward for these only
            attention_mask=torch.cat([mask.new_ones(len(vision), count), mask], dim=1),
            encoder_hidden_states=vision.to(queries),
        ).last_hidden_state
        return hidden[:, :count]

    def _read_out(self, projection: nn.Module, hidden: Tensor) -> TokenSet:
        tokens = functional.normalize(projection(hidden).float(), dim=-1)
        return TokenSet(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    # -- training ----------------------------------------------------------------------------------------------

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything but the vision tower and the matching head: Q-Former, text embeddings, projections, query tokens,
        temperature."""
        for name, parameter in self.named_parameters():
            if not name.startswith(("model.vision_model.", "model.itm_head.")):
                yield name, parameter

    def tower_digest(self) -> str:
        """Identity of the vision tower's weights and of the preprocessing of images."""
        prepared = digest_of(self.preprocessing() | {"max_text_tokens": 0})
        return digest_of([prepared, weights_digest(self.model.vision_model.named_parameters())])

    def set_dropout(self, probability: float) -> None:
        """Set the Q-Former's dropout, of hidden states and of attention; a checkpoint's own is BERT's 0.1."""
        if not 0 <= probability < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {probability}")
        for module in self.model.qformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = probability

    # -- files -------------------------------------------------------------------------------------------------

    def preprocessing(self) -> dict[str, Any]:
        """What is done to images and texts before the network: plain values, for keys and for `cirque.json`."""
        config = self.image_processor
        return {
            "fit": self.fit,
            "height": int(config.size["height"]),
            "width": int(config.size["width"]),
            "resample": int(config.resample),
            "mean": [float(value) for value in config.image_mean],
            "std": [float(value) for value in config.image_std],
            "lower_case": True,
            "max_text_tokens": self.max_text_tokens,
        }

    def save(self, folder: Path, dtype: str | None = None) -> None:
        """Write the model, tokenizer and image processor in Hugging Face format, and `cirque.json` beside them.

        Args:
            folder: made if missing; files of the same names are replaced.
            dtype: of the written weights ("float16" halves the file); None keeps each weight as it is.
        """
        facts = {"temperature": self.temperature.item(), "preprocessing": self.preprocessing()}
        readers = (self.tokenizer, self.image_processor)
        write_checkpoint(folder, self.model, self.model.state_dict(), readers, facts, dtype)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        digest: str = "",
        device: str = "auto",
        dtype: str = "auto",
        max_text_tokens: int | None = None,
    ) -> Self:
        """Load a folder or a Hugging Face id, in evaluation mode.

        Args:
            source: a folder written by `save` or by `save_pretrained`, or an id such as Salesforce/blip2-itm-vit-g.
            revision: the commit of an id.
            digest: what to report as this encoder's identity.
            device: "auto", "cpu" or "cuda".
            dtype: of the vision tower; "auto" is float16 on a GPU and float32 elsewhere.
            max_text_tokens: overrides the checkpoint's.

        Raises:
            ValueError: if weights are missing, of another shape or of no place in the model, or the files disagree
                about the preprocessing.
        """
        place = resolve_device(device)
        source = str(source)
        with loading():
            described = Blip2Config.from_pretrained(source, revision=revision)
            model, report = model_class(described).from_pretrained(
                source, revision=revision, dtype=torch.float32, output_loading_info=True
            )
        _refuse_other_weights(source, report)
        set_post_norm(model)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        # Pillow's bicubic, as LAVIS used; torchvision's differs in the last bits.
        image_processor = AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
        facts = side_facts(source)
        stored = facts.get("preprocessing")
        encoder = cls(
            model.to(place),
            tokenizer,
            image_processor,
            temperature=facts.get("temperature", TEMPERATURE),
            max_text_tokens=max_text_tokens or (stored or {}).get("max_text_tokens"),
            fit=(stored or {}).get("fit", "squash"),
            digest=digest,
        )
        if stored is not None and encoder.preprocessing() | {"max_text_tokens": 0} != stored | {"max_text_tokens": 0}:
            raise ValueError(
                f"{Path(source) / SIDE_FILE} says the preprocessing is {stored}, but the files beside it make"
                f" {encoder.preprocessing()}: one of them was changed by hand; save the checkpoint again"
            )
        encoder.model.vision_model.to(DTYPES[resolve_dtype(dtype, place)])
        return encoder.to(place).eval()


def _refuse_other_weights(source: str, report: Any) -> None:
    """Raise unless the file held the model's weights and no others: a leftover is a sign of another architecture."""
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise ValueError(
            f"{source} is not a whole BLIP-2 retrieval model: {len(wrong)} weights are missing or misshapen,"
            f" such as {wrong[0]}; expected a checkpoint of Blip2ForImageTextRetrieval"
        )
    spare = sorted(name for name in report["unexpected_keys"] if not SPARE.fullmatch(name))
    if spare:
        raise ValueError(
            f"{source} holds {len(spare)} weights that a BLIP-2 retrieval model has no place for, such as {spare[0]};"
            " expected a checkpoint of Blip2ForImageTextRetrieval"
        )
