"""The losses of the recipes against their sums written out."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models.encoders import TextReading
from models.encoders.blip2 import Blip2Encoder
from models.objectives import Batch, RetrievalLoss
from models.similarity import laid_out
from models.terms import TERMS
from tests.models.test_gradients import full
from tests.models.tiny_blip2 import noise_images, tiny_encoder

TARGETS = ["a red star", "a blue square", "a red star", "two circle"]
CAPTIONS = ["a star", "the square", "a circle", "a circle"]


@pytest.fixture(scope="module")
def encoder() -> Blip2Encoder:
    return tiny_encoder()


def batch(encoder: Blip2Encoder, **changes: object) -> Batch:
    """Four rows; the first and third have the same target text, the last two the same caption."""
    given = {
        "reference": encoder.vision(noise_images(4)),
        "modifications": ["make it red", "now blue", "add a star", "two of it"],
        "target_texts": TARGETS,
        "same_text": torch.tensor([[one == other for other in TARGETS] for one in TARGETS]),
        "captions": CAPTIONS,
        "same_caption": torch.tensor([[one == other for other in CAPTIONS] for one in CAPTIONS]),
    }
    return Batch(**{**given, **changes})  # type: ignore[arg-type]


def cross_entropy(scores: Tensor, barred: Sequence[tuple[int, int]]) -> Tensor:
    for row, column in barred:
        scores[row, column] = -torch.inf
    return -(scores / 0.07).log_softmax(dim=1).diagonal().mean()


@pytest.mark.parametrize("reading", ["cls", "query_ffn", "text_ffn"])
@torch.no_grad()
def test_a_composed_query_finds_the_text_of_its_target(encoder: Blip2Encoder, reading: TextReading) -> None:
    data = batch(encoder)
    found = RetrievalLoss(("composed_text",), reading=reading)(encoder, data)
    query = encoder.query_tokens(data.reference, data.modifications).tokens
    text = encoder.text_tokens(TARGETS, reading).tokens
    scores = torch.einsum("iad,jbd->ijab", query, text).amax(-1).mean(-1)
    if reading == "cls":  # one token: the mean of the cosines
        assert text.shape[1] == 1
        torch.testing.assert_close(scores, query.mean(dim=1) @ text[:, 0].T)
    expected = cross_entropy(scores, [(0, 2), (2, 0)])
    assert set(found) == {"composed_text"}
    torch.testing.assert_close(found["composed_text"], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_caption_finds_its_image(encoder: Blip2Encoder) -> None:
    data = batch(encoder)
    found = RetrievalLoss(("caption_image",))(encoder, data)
    image, text = encoder.image_tokens(data.reference).tokens, encoder.text_tokens(CAPTIONS).tokens
    scores = torch.einsum("id,jbd->ijb", text[:, 0], image).amax(-1)  # [CLS], and the best of the image's tokens
    expected = cross_entropy(scores, [(2, 3), (3, 2)])
    torch.testing.assert_close(found["caption_image"], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_image_finds_its_caption_among_wrong_ones(encoder: Blip2Encoder) -> None:
    wrong = [["no star"], ["the circle"], ["a star"], ["a blue circle"]]
    same = torch.cat([batch(encoder).same_caption, torch.zeros(4, 4, dtype=torch.bool)], dim=1)  # type: ignore[list-item]
    same[:, 6] = True  # "a star" is among the captions already
    data = batch(encoder, wrong_captions=wrong, same_caption=same)
    found = RetrievalLoss(("image_caption", "caption_image"))(encoder, data)
    image = encoder.image_tokens(data.reference).tokens
    text = encoder.text_tokens([*CAPTIONS, "no star", "the circle", "a blue circle"]).tokens
    expected = cross_entropy(image.mean(dim=1) @ text[:, 0].T, [(2, 3), (3, 2)])
    torch.testing.assert_close(found["image_caption"], expected, atol=1e-5, rtol=1e-5)
    alone = RetrievalLoss(("caption_image",))(encoder, batch(encoder))["caption_image"]
    torch.testing.assert_close(found["caption_image"], alone)  # which looks for images: texts are no candidates


@torch.no_grad()
def test_negative_texts_are_wrong_answers_to_all_rows(encoder: Blip2Encoder) -> None:
    wrong = [["not red"], ["a red star"], ["the square"], ["two circle"]]
    same = torch.cat([batch(encoder).same_text, torch.zeros(4, 4, dtype=torch.bool)], dim=1)  # type: ignore[list-item]
    same[:, 5] = same[:, 7] = True  # they are among the targets already
    data = batch(encoder, negative_texts=wrong, same_text=same)
    found = RetrievalLoss(("composed_text",))(encoder, data)["composed_text"]
    query = encoder.query_tokens(data.reference, data.modifications).tokens
    text = encoder.text_tokens([*TARGETS, "not red", "the square"]).tokens
    expected = cross_entropy(query.mean(dim=1) @ text[:, 0].T, [(0, 2), (2, 0)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_terms_are_those_that_the_batch_has_rows_for(encoder: Blip2Encoder) -> None:
    assert set(RetrievalLoss(TERMS)(encoder, full(encoder))) == set(TERMS)
    without = RetrievalLoss(TERMS)(encoder, batch(encoder))
    assert list(without) == ["composed_text", "caption_image", "image_caption"]
    only = RetrievalLoss(("caption_image",))
    assert set(only.encode(encoder, batch(encoder))) == {"caption", "image"}  # no query is composed for it
    with pytest.raises(ValueError, match="the batch has nothing for composed_image"):
        RetrievalLoss()(encoder, batch(encoder))


def test_other_similarities_are_cosines_of_one_vector_each() -> None:
    # tokens (1, 0), (0, 1) against (0, 1), (1, 0): the best for each is 1, in the same place 0, and the means are alike
    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])

    def score(similarity: str) -> float:
        left, right = (laid_out(tokens, similarity) for tokens in (one, other))  # type: ignore[arg-type]
        return float((left @ right.T).amax(-1).mean())

    assert [score("max"), score("slots"), score("pooled")] == pytest.approx([1, 0, 1])
    assert laid_out(one, "slots").norm(dim=-1).tolist() == pytest.approx([1])
