"""How an image of any shape becomes the model's square."""

from collections.abc import Callable
from typing import Literal, get_args

from PIL import Image, ImageOps

Fit = Literal["squash", "target_pad"]
FITS: tuple[Fit, ...] = get_args(Fit)
# CLIP4Cir's and SPRC's: what is longer than this is padded down to it, what is left is cropped.
TARGET_RATIO = 1.25


def fit_image(image: Image.Image, fit: Fit, side: int) -> Image.Image:
    """An image in the shape that the fit leaves to the image processor.

    Args:
        image: RGB, any size.
        fit: "squash" leaves the image to the processor, which stretches it to the square, as LAVIS and Hugging Face
            do. "target_pad" pads the shorter side with black until the longer is at most 1.25 times as long, scales
            the shorter to `side` and cuts the square out of the middle, as CLIP4Cir (Baldrati et al., 2022) and SPRC
            do.
        side: of the square, in pixels.

    Returns:
        RGB; (side, side) for target_pad.
    """
    return _FITS[fit](image, side)


def _squash(image: Image.Image, side: int) -> Image.Image:
    return image


def _target_pad(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    if max(width, height) / min(width, height) >= TARGET_RATIO:
        wanted = max(width, height) / TARGET_RATIO
        across, down = (max(int((wanted - length) / 2), 0) for length in (width, height))
        image = ImageOps.expand(image, (across, down, across, down))
        width, height = image.size
    # Rounded as torchvision's Resize and CenterCrop round, which the published code uses.
    short, long = min(width, height), max(width, height)
    scaled = int(side * long / short)
    size = (side, scaled) if width <= height else (scaled, side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2.0) for length in image.size)
    return image.crop((left, top, left + side, top + side))


_FITS: dict[Fit, Callable[[Image.Image, int], Image.Image]] = {"squash": _squash, "target_pad": _target_pad}
