"""One vector per image: small random checkpoints against the model called by hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel, Dinov2Model

from models.encoders import ImageEncoder, load_image_encoder
from models.encoders.blip2 import Blip2Encoder
from tests.models.tiny_blip2 import noise_images, tiny_checkpoint
from tests.models.tiny_embedders import tiny_clip, tiny_dino, tiny_vit


def tokens_of(encoder: ImageEncoder, count: int = 3) -> torch.Tensor:
    with torch.inference_mode():
        found = encoder.image_tokens(encoder.vision_of(encoder.pixels(noise_images(count))))
    assert found.mask.all()
    torch.testing.assert_close(found.tokens.norm(dim=-1), torch.ones(found.tokens.shape[:2]))
    return found.tokens


@torch.inference_mode()
def test_clip_gives_its_projected_features(tmp_path: Path) -> None:
    encoder = load_image_encoder(str(tiny_clip(tmp_path)), "cpu")
    model = CLIPModel.from_pretrained(tmp_path)
    features = model.get_image_features(pixel_values=encoder.pixels(noise_images(3))).pooler_output
    torch.testing.assert_close(tokens_of(encoder)[:, 0], normalize(features, dim=-1))
    texts = ["a red circle", "two blue star", "a red circle left of the green square"]
    read = AutoTokenizer.from_pretrained(tmp_path)(
        texts, padding="max_length", truncation=True, max_length=8, return_tensors="pt"
    )
    expected = normalize(model.get_text_features(**read).pooler_output, dim=-1)
    found = encoder.text_tokens(texts).tokens
    torch.testing.assert_close(found[:, 0], expected)
    assert encoder.truncations == 1  # the third has 8 words and two special tokens
    assert (found[0] - found[1]).abs().max() > 1e-3
    alone = encoder.text_tokens(texts[:1]).tokens
    torch.testing.assert_close(alone[0], found[0])


@torch.inference_mode()
def test_dino_gives_its_class_token_and_reads_no_texts(tmp_path: Path) -> None:
    encoder = load_image_encoder(str(tiny_dino(tmp_path)), "cpu")
    hidden = Dinov2Model.from_pretrained(tmp_path)(encoder.pixels(noise_images(3))).last_hidden_state
    torch.testing.assert_close(tokens_of(encoder)[:, 0], normalize(hidden[:, 0], dim=-1))
    with pytest.raises(ValueError, match="a dinov2 model reads images alone; for captions name a CLIP"):
        encoder.text_tokens(["a red circle"])


def test_a_pooling_layer_that_was_never_trained_is_not_used(tmp_path: Path) -> None:
    folder = str(tiny_vit(tmp_path))
    first, second = (tokens_of(load_image_encoder(folder, "cpu")) for _ in range(2))
    torch.testing.assert_close(first, second)  # a new random layer would differ each time


def test_blip2_is_found_by_its_configuration(tmp_path: Path) -> None:
    encoder = load_image_encoder(str(tiny_checkpoint(tmp_path)), "cpu")
    assert isinstance(encoder, Blip2Encoder)
    assert tokens_of(encoder).shape == (3, 4, 8)


def test_a_checkpoint_with_gaps_is_refused(tmp_path: Path) -> None:
    folder = tiny_dino(tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "attention" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match="is not a whole model: 1 weights are missing or misshapen, such as"):
        load_image_encoder(str(folder), "cpu")


def test_a_checkpoint_without_preprocessing_is_refused(tmp_path: Path) -> None:
    folder = tiny_dino(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"says not how its images are prepared; it needs a preprocessor_config\.json"):
        load_image_encoder(str(folder), "cpu")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "dinov2"
