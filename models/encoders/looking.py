"""Where the tokens of an image look: the weights with which a Q-Former's query tokens read the patches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.encoders.blip2 import Blip2Encoder


def looking(encoder: object, vision: Tensor, text: str | None = None) -> Tensor | None:
    """(T, H, W): of each token the weights of the last cross-attention, mean over its heads, by patch.

    The weights of a token add up to at most 1; what is missing went to [CLS], which is no place of the image.

    Args:
        encoder: a BLIP-2; others have no such tokens.
        vision: (1, P, W) vision features of one image.
        text: of a composed query; None for the image's own tokens.

    Returns:
        None for another encoder, or where the patches are no square.
    """
    if not isinstance(encoder, Blip2Encoder):
        return None
    side = round((vision.shape[1] - 1) ** 0.5)
    if side * side != vision.shape[1] - 1:
        return None
    model = encoder.model
    queries = model.query_tokens
    inputs: dict[str, Any] = {"query_embeds": queries}
    if text is not None:
        ids, mask = encoder.tokenize([text])
        inputs = {
            "query_embeds": model.embeddings(input_ids=ids, query_embeds=queries),
            "query_length": queries.shape[1],
            "attention_mask": torch.cat([mask.new_ones(1, queries.shape[1]), mask], dim=1),
        }
    with _eager(model.qformer):
        found = model.qformer(**inputs, encoder_hidden_states=vision.to(queries), output_attentions=True)
    weights: Tensor = found.cross_attentions[-1][0].mean(dim=0)[: queries.shape[1], 1:]
    return weights.float().cpu().reshape(-1, side, side)


@contextmanager
def _eager(qformer: Any) -> Iterator[None]:
    """Other attentions do not tell their weights."""
    before = qformer.config._attn_implementation
    qformer.set_attn_implementation("eager")
    try:
        yield
    finally:
        qformer.set_attn_implementation(before)
