"""The queries of the papers' baselines: what a retriever finds without composing image and text.

All are scored like a composed query, by the mean over the query's tokens of the greatest cosine among a candidate's
tokens. A text is one token, so for it the mean falls away. (MVFT-JI, arXiv 2505.19707, table 1.)
"""

from typing import Literal, get_args

from models.encoders import TokenSet

Baseline = Literal["image_only", "text_only", "image_text"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


def baseline_query(method: Baseline, image: TokenSet, text: TokenSet) -> TokenSet:
    """Query tokens of a baseline.

    Args:
        method: image_only, the reference's image tokens; text_only, the text feature of the modification; image_text,
            the mean of each image token and the text feature, normalised again.
        image: tokens of B references, (B, T, D), L2-normalised.
        text: [CLS] text feature of B modifications, (B, 1, D), L2-normalised.

    Returns:
        (B, T, D) tokens, or (B, 1, D) for text_only; L2-normalised.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    from torch.nn.functional import normalize  # the command line reads BASELINES and should not wait for torch

    batch, _, dim = image.tokens.shape
    if text.tokens.shape != (batch, 1, dim):
        raise ValueError(f"text features of shape {tuple(text.tokens.shape)}, want {(batch, 1, dim)} for these images")
    if method == "image_only":
        return image
    if method == "text_only":
        return text
    return TokenSet(normalize((image.tokens + text.tokens) / 2, dim=-1), image.mask)
