"""Pictures decoded to upright RGB, and the files that are none."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from data.images import REASONS, BadImage, check, load_rgb
from tests.shared_data import shared_data

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
SIZE = (16, 12)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture as a file of that format."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 80, height: int = 64) -> Image.Image:
    """Noise does not compress: every part of the file carries pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixel(picture: Image.Image, x: int, y: int) -> npt.NDArray[np.int64]:
    return np.asarray(picture.crop((x, y, x + 1, y + 1)), dtype=np.int64).reshape(3)


def png_16(values: list[int], transparent: int | None = None) -> bytes:
    """A 16-bit gray PNG of 16 x 12, written by hand; column x has the value `values[x % len(values)]`."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    row = b"\0" + b"".join(struct.pack(">H", values[x % len(values)]) for x in range(16))
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 12, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", zlib.compress(row * 12)) + chunk(b"IEND", b"")


def refusal(source: Path | bytes) -> str:
    with pytest.raises(BadImage) as caught:
        load_rgb(source)
    assert caught.value.detail
    assert caught.value.reason in REASONS
    return caught.value.reason


# Modes. Each colour below is the one that a person would name when looking at the file.


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", WHITE),
        ("L", 100, "PNG", (100, 100, 100)),
        ("RGB", (1, 2, 3), "PNG", (1, 2, 3)),
        ("RGB", (1, 2, 3), "BMP", (1, 2, 3)),
        ("RGB", (1, 2, 3), "TIFF", (1, 2, 3)),
        ("RGB", (1, 2, 3), "PPM", (1, 2, 3)),
        ("RGB", (1, 2, 3), "TGA", (1, 2, 3)),
        ("RGB", (1, 2, 3), "QOI", (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), "TIFF", RED),
        ("CMYK", (0, 0, 0, 255), "TIFF", BLACK),
        # Over white: 128/255 red leaves 127/255 of white in green and blue.
        ("RGBA", (255, 0, 0, 128), "PNG", (255, 127, 127)),
        ("RGBA", (255, 0, 0, 0), "PNG", WHITE),
        ("RGBA", (255, 0, 0, 255), "PNG", RED),
        ("LA", (0, 128), "PNG", (127, 127, 127)),
        ("LA", (0, 0), "PNG", WHITE),
        # 16 bits: 32768 / 65535 * 255 = 127.5, which rounds to the even 128.
        ("I;16", 32768, "PNG", (128, 128, 128)),
        ("I;16", 65535, "PNG", WHITE),
        ("I;16", 65535, "TIFF", WHITE),
        ("I;16B", 32768, "TIFF", (128, 128, 128)),
        # 32 bits signed: 2**31 - 1 is white; a range that 16 bits hold is read as 16 bits.
        ("I", 2**31 - 1, "TIFF", WHITE),
        ("I", 2**30, "TIFF", (128, 128, 128)),
        ("I", 65535, "TIFF", WHITE),
        ("I", 257, "TIFF", (1, 1, 1)),
        ("I", -(2**15), "TIFF", BLACK),
        # Floats of 0..1, of 0..255, of 0..65535.
        ("F", 1.0, "TIFF", WHITE),
        ("F", 0.2, "TIFF", (51, 51, 51)),
        ("F", 200.0, "TIFF", (200, 200, 200)),
        ("F", 65535.0, "TIFF", WHITE),
    ],
)
def test_every_mode_becomes_rgb(
    mode: str, colour: int | float | tuple[int, ...], kind: str, expected: tuple[int, int, int]
) -> None:
    picture = load_rgb(encoded(Image.new(mode, SIZE, colour), kind))
    assert picture.mode == "RGB"
    assert picture.size == SIZE
    assert picture.getpixel((3, 3)) == expected


def test_16_bits_are_scaled_not_clipped() -> None:
    picture = load_rgb(png_16([0, 257, 25700, 65535]))
    # Each step of 8 bits is 257 steps of 16.
    assert [picture.getpixel((x, 0)) for x in range(4)] == [BLACK, (1, 1, 1), (100, 100, 100), WHITE]


def test_transparent_value_of_a_16_bit_png_is_white() -> None:
    picture = load_rgb(png_16([0, 1000], transparent=0))
    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((1, 0)) == (4, 4, 4)  # 1000 / 257 = 3.9


def test_floats_outside_the_usual_ranges_span_their_own() -> None:
    values = np.linspace(-3e6, 5e6, 256, dtype=np.float32).reshape(16, 16)
    values[0, 1] = np.nan
    picture = load_rgb(encoded(Image.fromarray(values), "TIFF"))
    assert picture.getpixel((0, 0)) == BLACK
    assert picture.getpixel((15, 15)) == WHITE
    assert load_rgb(encoded(Image.new("F", SIZE, 1e9), "TIFF")).getpixel((0, 0)) == BLACK


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_transparent_palette_entry_is_white(transparency: int | bytes) -> None:
    picture = Image.new("P", SIZE, 0)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.putpixel((1, 0), 1)
    decoded = load_rgb(encoded(picture, "PNG", transparency=transparency))
    assert decoded.getpixel((0, 0)) == WHITE
    assert decoded.getpixel((1, 0)) == RED


def test_palette_without_transparency() -> None:
    picture = Image.new("P", SIZE, 0)
    picture.putpalette([0, 0, 255])
    assert load_rgb(encoded(picture)).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7)), ("1", 0)])
def test_colour_key_is_white(mode: str, key: int | tuple[int, int, int]) -> None:
    assert load_rgb(encoded(Image.new(mode, SIZE, key), transparency=key)).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (
        load_rgb(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)).getpixel((3, 3)) == RED
    )


def test_cmyk_jpeg_is_read_with_adobes_inverted_inks() -> None:
    """With Adobe's marker or without, as Pillow and the writers in use have it."""
    marked = encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG", quality=100)
    place = marked.index(b"\xff\xee\x00\x0eAdobe")
    for content in (marked, marked[:place] + marked[place + 16 :]):
        assert np.abs(pixel(load_rgb(content), 3, 3) - RED).max() <= 2


def test_lab_is_converted_by_its_profile() -> None:
    # L* a* b* of sRGB red under D50 are 54.3, 80.8, 69.9: bytes 54.3 / 100 * 255, 80.8 + 128 and 69.9 + 128.
    picture = load_rgb(encoded(Image.new("LAB", SIZE, (138, 209, 198)), "TIFF"))
    assert np.abs(pixel(picture, 3, 3) - RED).max() <= 6  # a byte is a coarse step of L* a* b*


def test_the_real_faulty_files_show_one_photo_in_its_colours() -> None:
    """Six files were made from one picture; CMYK read the wrong way round would be a negative, far off."""
    folder = shared_data("cc3m_img2dataset/www_source")

    def small(name: str) -> npt.NDArray[np.float32]:
        return np.asarray(load_rgb(folder / name).resize((50, 62), Image.Resampling.BOX), dtype=np.float32)

    original = small("png_named.jpg")
    for name in ("cmyk.jpg", "pal.png", "w.webp", "anim.gif"):
        assert np.abs(small(name) - original).mean() < 6, name
    gray = original @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    for name in ("gray.jpg", "sixteen.png"):
        assert np.abs(small(name)[..., 0] - gray).mean() < 6, name
    # alpha.png lets white through: it is nowhere darker than the original.
    assert (small("alpha.png") - original).min() > -6
    assert (small("alpha.png") - original).mean() > 20


# Orientation.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once_and_left_out(kind: str) -> None:
    picture = Image.new("RGB", (40, 20), WHITE)
    picture.paste(BLACK, (0, 0, 40, 5))  # dark above
    exif = Image.Exif()
    exif[0x0112] = 6  # row 0 belongs to the right, column 0 to the top
    upright = load_rgb(encoded(picture, kind, exif=exif))
    assert upright.size == (20, 40)
    assert pixel(upright, 18, 20).max() < 40  # dark on the right
    assert pixel(upright, 5, 20).min() > 215
    for again in ("PNG", "WEBP", "JPEG"):  # a saved copy is not turned a second time
        assert load_rgb(encoded(upright, again)).size == (20, 40)


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_meaningless_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert load_rgb(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (40, 20)


def test_junk_exif_costs_nothing_but_the_exif() -> None:
    assert load_rgb(encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffjunk")).size == (80, 64)
    assert load_rgb(encoded(noise(), "JPEG", exif=b"Exif\0\0nonsense")).size == (80, 64)


@pytest.mark.parametrize(("kind", "size"), [("Landscape", (1800, 1200)), ("Portrait", (1200, 1800))])
def test_the_real_photos_are_all_upright(kind: str, size: tuple[int, int]) -> None:
    """The photos differ in the digit painted in their middle and in JPEG noise only."""
    folder = shared_data("exif_orientation")
    pictures = {n: load_rgb(folder / f"{kind}_{n}.jpg") for n in range(9)}
    assert {picture.size for picture in pictures.values()} == {size}
    upright = np.asarray(pictures[1].resize((90, 90)), dtype=np.float32)
    for n, picture in pictures.items():
        difference = np.abs(np.asarray(picture.resize((90, 90)), dtype=np.float32) - upright).mean()
        assert difference < 2, f"{kind}_{n}"
        turned = np.abs(np.asarray(picture.resize((90, 90)).rotate(180), dtype=np.float32) - upright).mean()
        assert turned > 20  # so that the bound above means something


# Files that are no usable image.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not_an_image"),
        (b"a photo of a tench", "not_an_image"),
        (bytes(1000), "not_an_image"),
        (b"\0\0\0\x18ftypmp42" + bytes(100), "not_an_image"),  # a video
        (b"\0\0\x01\xb3\x14\0\xf0" + bytes(100), "not_an_image"),  # an MPEG video, which Pillow names
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "not_an_image"),  # HDF5, which Pillow names
        (b"\0\0\0\x18ftypheic" + bytes(100), "undecodable"),  # a phone's HEIF photo, which Pillow lacks
        (b"\xff\xd8\xff" + bytes(100), "undecodable"),
        (b"\x89PNG\r\n\x1a\n", "undecodable"),
    ],
)
def test_no_image(content: bytes, reason: str) -> None:
    assert refusal(content) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA", "QOI", "DDS", "SGI"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(kind: str, share: float) -> None:
    whole = encoded(noise(), kind)
    assert load_rgb(whole).size == (80, 64)
    assert refusal(whole[: int(len(whole) * share)]) == "truncated"


def test_truncated_progressive_jpeg() -> None:
    whole = encoded(noise(), "JPEG", progressive=True)
    assert refusal(whole[: len(whole) // 2]) == "truncated"


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_truncated_where_the_decoder_does_not_tell(kind: str) -> None:
    whole = encoded(noise(), kind)
    assert load_rgb(whole).size == (80, 64)
    assert refusal(whole[: len(whole) // 2]) == "undecodable"


def test_damaged() -> None:
    whole = bytearray(encoded(noise()))
    middle = len(whole) // 2
    whole[middle : middle + 50] = bytes(50)
    assert refusal(bytes(whole)) == "undecodable"


@pytest.mark.parametrize(("size", "usable"), [((10, 10), True), ((9, 100), False), ((100, 9), False), ((1, 1), False)])
def test_smallest_side(size: tuple[int, int], usable: bool) -> None:
    content = encoded(Image.new("RGB", size))
    if usable:
        assert load_rgb(content).size == size
    else:
        assert refusal(content) == "too_small"


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("1", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5001)
    assert load_rgb(content).size == (100, 100)  # up to twice the limit Pillow only warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)
    assert refusal(content) == "decompression_bomb"


def test_what_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    assert refusal(tmp_path / "pipe.jpg") == "not_an_image"
    assert refusal(tmp_path) == "not_an_image"
    assert refusal(tmp_path / "link.jpg") == "unreadable"
    assert refusal(tmp_path / "gone.jpg") == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(noise()))
    path.chmod(0)
    assert refusal(path) == "unreadable"


def test_error_of_the_disk_is_not_the_picture_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise()))

    def fail(_: Image.Image) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert refusal(path) == "unreadable"


def test_check_reports_the_upright_size_the_digest_and_the_true_format(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (40, 20)), "PNG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(content)
    for source in (content, tmp_path / "a.jpg"):
        found = check(source)
        assert (found.width, found.height) == (20, 40)
        assert found.sha256 == hashlib.sha256(content).hexdigest()
        assert found.suffix == ".png"


def test_bytes_and_file_give_the_same_picture_and_no_open_file(tmp_path: Path) -> None:
    content = encoded(noise())
    (tmp_path / "a.png").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    from_file = load_rgb(tmp_path / "a.png")
    assert len(os.listdir("/proc/self/fd")) == before
    assert from_file.tobytes() == load_rgb(content).tobytes() == noise().tobytes()
    assert from_file.info == {}
