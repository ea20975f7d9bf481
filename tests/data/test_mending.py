"""Undoing lost orientations and white bars."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import BadImage, load_rgb
from data.mending import Mend, lost_orientation, mended
from tests.shared_data import shared_data

WORDS = {
    1: "Horizontal (normal)",
    2: "Mirrored horizontal",
    3: "Rotated 180",
    4: "Mirrored vertical",
    5: "Mirrored horizontal then rotated 90 CCW",
    6: "Rotated 90 CW",
    7: "Mirrored horizontal then rotated 90 CW",
    8: "Rotated 90 CCW",
}


def exif(orientation: int, **more: str) -> str:
    return json.dumps({"Image Orientation": WORDS[orientation], **more})


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", WORDS)
@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_turned_photos_stand_upright_again(shape: str, orientation: int) -> None:
    """Stripped of EXIF as img2dataset does it, and mended, a photo is what its EXIF made it, pixel for pixel."""
    path = shared_data(f"exif_orientation/{shape}_{orientation}.jpg")
    with Image.open(path) as image:
        stripped = encoded(image, quality="keep")
        size = image.size
    content, done = mended(stripped, Mend(lost_orientation(exif(orientation), size)))
    assert done == (("turned",) if orientation > 1 else ())
    with Image.open(io.BytesIO(stripped)) as image:
        pixels = np.asarray(image.convert("RGB"))
    upright = load_rgb(content)
    expected = load_rgb(path)
    assert upright.size == expected.size == ((1800, 1200) if shape == "Landscape" else (1200, 1800))
    # No loss: the pixels are those of the stripped file, in another order.
    assert sorted(np.asarray(upright).shape) == sorted(pixels.shape)
    small = [np.asarray(one.resize((18, 12)), dtype=float) for one in (upright, expected)]
    assert np.abs(small[0] - small[1]).mean() < 1


def test_png_and_webp_are_turned_without_loss() -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        content, done = mended(encoded(Image.fromarray(values), kind, **options), Mend(6))
        assert done == ("turned",)
        assert np.array_equal(np.asarray(load_rgb(content)), np.rot90(values, -1))


def test_a_picture_that_kept_its_orientation_is_not_turned_twice() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    content = encoded(Image.new("RGB", (20, 30)), exif=tags)
    assert mended(content, Mend(6)) == (content, ())


def test_what_a_decoder_turned_already_is_left() -> None:
    """OpenCV's IMREAD_COLOR of early versions turned; the sizes in EXIF are those before."""
    stated = {"EXIF ExifImageWidth": "1200", "EXIF ExifImageLength": "1800"}
    assert lost_orientation(exif(6, **stated), (1200, 1800)) == 6
    assert lost_orientation(exif(6, **stated), (1800, 1200)) == 1
    assert lost_orientation(exif(6), (1800, 1200)) == 6


@pytest.mark.parametrize("text", [None, "", "{}", "{broken", "[1]", '{"Image Orientation": "0"}', 6])
def test_no_orientation(text: object) -> None:
    assert lost_orientation(text, (10, 10)) == 1


def barred(width: int, height: int, side: int = 64, around: int = 255) -> bytes:
    """A dark picture of width x height, scaled into a square with bars as img2dataset's `border` does."""
    scale = side / max(width, height)
    size = (round(width * scale), round(height * scale))
    square = Image.new("RGB", (side, side), (around,) * 3)
    square.paste(Image.new("RGB", size, (40, 60, 80)), ((side - size[0]) // 2, (side - size[1]) // 2))
    return encoded(square, quality=95)


@pytest.mark.parametrize(("size", "left"), [((200, 100), (64, 32)), ((100, 300), (21, 64))])
def test_bars_are_cut_off(size: tuple[int, int], left: tuple[int, int]) -> None:
    content, done = mended(barred(*size), Mend(unbar=size))
    assert done == ("trimmed",)
    picture = load_rgb(content)
    assert picture.size == left
    assert np.asarray(picture)[2:-2, 2:-2].max() < 120  # nothing white is left


def test_without_white_bars_nothing_is_cut() -> None:
    for content, original in (
        (barred(200, 100, around=128), (200, 100)),  # grey: a picture of its own
        (barred(200, 200), (200, 200)),
        (encoded(Image.new("RGB", (64, 32))), (200, 100)),  # no square
        (encoded(Image.new("RGB", (64, 64))), (200, 100)),  # resize mode center_crop
        (b"no picture", (200, 100)),
    ):
        assert mended(content, Mend(unbar=original)) == (content, ())


def test_next_to_nothing_between_bars_is_no_image() -> None:
    with pytest.raises(BadImage, match="too_small: 64 x 2 pixels without the white bars"):
        mended(barred(3200, 100), Mend(unbar=(3200, 100)))


def test_the_real_lost_orientation() -> None:
    folder: Path = shared_data("cc3m_img2dataset/out_files/00000")
    facts = json.loads((folder / "000000034.json").read_text())
    size = (facts["original_width"], facts["original_height"])
    assert lost_orientation(facts["exif"], size) == 6
