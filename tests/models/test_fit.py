"""Squares of images: target padding against the published transforms, step by step in torchvision."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as published

from models.encoders.blip2 import Blip2Encoder
from models.encoders.fit import fit_image
from tests.models.tiny_blip2 import noise_images, tiny_encoder


def reference(image: Image.Image, side: int) -> Image.Image:
    """What CLIP4Cir's TargetPad(1.25), Resize and CenterCrop do, written with torchvision's functions."""
    width, height = image.size
    if max(width, height) / min(width, height) >= 1.25:
        wanted = max(width, height) / 1.25
        across, down = max(int((wanted - width) / 2), 0), max(int((wanted - height) / 2), 0)
        image = published.pad(image, [across, down, across, down], fill=0)
    image = published.resize(image, [side], interpolation=InterpolationMode.BICUBIC)
    return published.center_crop(image, [side, side])


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (90, 31), (17, 80), (32, 32), (64, 64), (35, 33), (100, 80)])
def test_target_pad_equals_the_published_transforms(size: tuple[int, int]) -> None:
    image = noise_images(1, seed=size[0], size=size)[0]
    ours = np.asarray(fit_image(image, "target_pad", 32))
    assert ours.shape == (32, 32, 3)
    np.testing.assert_array_equal(ours, np.asarray(reference(image, 32)))


def test_the_fit_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    plain = tiny_encoder()
    padding = Blip2Encoder(plain.model, plain.tokenizer, plain.image_processor, fit="target_pad")
    images = noise_images(2, size=(90, 30))
    assert (plain.pixels(images) - padding.pixels(images)).abs().max() > 0.1
    padding.save(tmp_path)
    again = Blip2Encoder.load(tmp_path)
    assert again.fit == "target_pad"
    assert again.preprocessing()["fit"] == "target_pad"
    assert (again.pixels(images) == padding.pixels(images)).all()
    with pytest.raises(ValueError, match="fit must be one of squash, target_pad, got 'crop'"):
        Blip2Encoder(plain.model, plain.tokenizer, plain.image_processor, fit="crop")  # type: ignore[arg-type]
