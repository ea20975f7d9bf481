"""The baselines' query tokens, by hand."""

import pytest
import torch
from torch import Tensor

from models.baselines import baseline_query
from models.encoders import TokenSet


def token_set(*sets: list[list[float]]) -> TokenSet:
    tokens = torch.tensor(sets)
    return TokenSet(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


IMAGE = token_set([[1.0, 0.0], [0.0, 1.0]])
TEXT = token_set([[0.0, 1.0]])


def tokens(method: str) -> Tensor:
    return baseline_query(method, IMAGE, TEXT).tokens  # type: ignore[arg-type]


def test_image_and_text_alone_are_themselves() -> None:
    assert tokens("image_only") is IMAGE.tokens
    assert tokens("text_only") is TEXT.tokens


def test_image_text_is_the_normalised_mean_with_each_token() -> None:
    # ((1, 0) + (0, 1)) / 2 has length sqrt(1/2), so it becomes (sqrt(1/2), sqrt(1/2)); (0, 1) with (0, 1) stays
    half = 0.5**0.5
    torch.testing.assert_close(tokens("image_text"), torch.tensor([[[half, half], [0.0, 1.0]]]))


def test_texts_that_do_not_belong_to_the_images_are_refused() -> None:
    two = token_set([[0.0, 1.0]], [[1.0, 0.0]])
    with pytest.raises(ValueError, match=r"shape \(2, 1, 2\), want \(1, 1, 2\)"):
        baseline_query("image_text", IMAGE, two)
