"""Copies of a checkpoint: the same network, other choices around it."""

from pathlib import Path

import pytest
import torch

from models.encoders import load_encoder
from models.encoders.blip2 import Blip2Encoder
from tasks.convert import convert
from tests.models.tiny_blip2 import noise_images, tiny_checkpoint


@torch.no_grad()
def test_a_copy_differs_in_what_was_asked_only(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source")
    found = convert(str(source), tmp_path / "copy", fit="target_pad", max_text_tokens=9)
    assert (found["fit"], found["max_text_tokens"]) == ("target_pad", 9)
    before, after = (load_encoder(str(path), device="cpu") for path in (source, tmp_path / "copy"))
    assert isinstance(after, Blip2Encoder)
    assert (after.fit, after.max_text_tokens) == ("target_pad", 9)
    assert before.digest != after.digest  # so that nothing encoded with the one is taken for the other
    vision = before.vision(noise_images(2))
    assert torch.equal(before.image_tokens(vision).tokens, after.image_tokens(vision).tokens)
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "Images: target_pad, 32 x 32 pixels. Texts: at most 9 tokens" in card
    with pytest.raises(FileExistsError, match="is not empty; name a new folder"):
        convert(str(source), tmp_path / "copy")
    same = convert(str(source), tmp_path / "same", dtype="float16")
    assert (same["fit"], same["max_text_tokens"]) == ("squash", 16)
