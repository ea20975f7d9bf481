"""An encoder whose tokens are laid out for another similarity than the mean of maxima."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from models.encoders import Encoder, TextReading, TokenSet
from models.similarity import laid_out
from models.terms import Similarity


def compared_by(encoder: Encoder, similarity: Similarity) -> Encoder:
    """The encoder itself for "max", else one whose tokens score by mean of maxima as its own do by `similarity`."""
    return encoder if similarity == "max" else cast(Encoder, _Compared(encoder, similarity))


class _Compared:
    """Passes everything on but tokens."""

    def __init__(self, encoder: Encoder, similarity: Similarity) -> None:
        self._encoder, self._similarity = encoder, similarity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def image_tokens(self, vision: Tensor) -> TokenSet:
        return self._laid_out(self._encoder.image_tokens(vision))

    def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
        return self._laid_out(self._encoder.text_tokens(texts, reading))

    def query_tokens(self, vision: Tensor, texts: Sequence[str]) -> TokenSet:
        return self._laid_out(self._encoder.query_tokens(vision, texts))

    def _laid_out(self, found: TokenSet) -> TokenSet:
        tokens = laid_out(found.tokens, self._similarity)
        return TokenSet(tokens, found.mask.any(dim=1, keepdim=True))
