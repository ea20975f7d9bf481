"""Pictures from files: decoded whole, upright, as RGB; and the reasons for which a file is none.

Colour profiles are not applied: red, green and blue are taken as stored, as the field's encoders expect.
"""

import hashlib
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from data.places import Place, Span

REASONS = {
    "empty": "the file has no bytes",
    "not_an_image": "no picture format is recognised, or something else than a file",
    "truncated": "the file ends before its picture does",
    "undecodable": "a picture format that is damaged or that Pillow cannot decode",
    "decompression_bomb": "more pixels than Pillow agrees to decode",
    "too_small": "a side is under 10 pixels",
    "duplicate": "the same bytes as an earlier image",
    "unreadable": "the file cannot be opened or read",
}
SMALLEST_SIDE = 10

_Stream = BufferedReader | BytesIO

_ORIENTATION = 0x0112
# EXIF 2.32, 4.6.5 A: where row 0 and column 0 of the stored picture belong. 0 and 9.. mean nothing and are ignored.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How files begin that are pictures even where Pillow does not recognise them: broken headers, formats it lacks.
_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF....WEBP",
    "TIFF": rb"II\*\0|MM\0\*",
    "AVIF": rb"....ftypavi[fs]",
    "HEIF": rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  ",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PSD": rb"8BPS",
}
_ENDS_EARLY = re.compile(r"truncated|\bEOF\b|expected to read|incomplete|not enough image data", re.IGNORECASE)
# Formats that Pillow names without decoding a picture from them.
_NO_PICTURE = {"MPEG"}

# Usual ranges of the modes with more than 8 bits: the first that holds all values becomes 0..255. Pillow's mode does
# not tell a 16-bit file (mode I for some formats) from a 32-bit one, nor floats of 0..1 from floats of 0..255.
_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "I;16": ((0, 2**16 - 1),),
    "I": ((0, 2**16 - 1), (-(2**15), 2**15 - 1), (0, 2**31 - 1), (-(2**31), 2**31 - 1)),
    "F": ((0, 1), (0, 2**8 - 1), (0, 2**16 - 1)),
}


class BadImage(Exception):  # noqa: N818  (the same word as in the tables and messages)
    """A file is not a usable image.

    Attributes:
        reason: one of `REASONS`.
        detail: what was found, for a person to read.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of an image after it was decoded whole.

    Attributes:
        width, height: pixels, upright.
        sha256: of the encoded bytes, 64 hexadecimal digits.
        suffix: file name suffix of its format, for example ".png".
    """

    width: int
    height: int
    sha256: str
    suffix: str


def load_rgb(source: Place | bytes) -> Image.Image:
    """Decode an image file, a stretch of a file, or bytes, of any format that Pillow reads.

    EXIF orientation is applied; transparency is laid over white; of an animation the first frame counts; grayscale,
    palette and CMYK become RGB; 16-bit and float pictures are scaled from their type's range to 0..255.

    Returns:
        A picture of mode RGB, both sides >= 10 pixels, without metadata.

    Raises:
        BadImage: with a reason other than "duplicate".
    """
    with _opened(source) as (stream, size):
        return _decode(stream, size)[0]


def check(source: Place | bytes) -> Checked:
    """Decode as `load_rgb` does and report what was found instead of the picture.

    Raises:
        BadImage: with a reason other than "duplicate".
    """
    with _opened(source) as (stream, size):
        picture, kind = _decode(stream, size)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Checked(picture.width, picture.height, digest, f".{kind.lower()}")


@contextmanager
def _opened(source: Place | bytes) -> Iterator[tuple[_Stream, int]]:
    """A binary stream over the source, and its size in bytes; errors of the file system become BadImage."""
    if isinstance(source, Span):
        try:
            source = source.read()
        except OSError as error:
            raise BadImage("unreadable", error.strerror or str(error)) from error
    if isinstance(source, bytes):
        if not source:
            raise BadImage("empty", "0 bytes")
        yield BytesIO(source), len(source)
        return
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise BadImage("not_an_image", "not a regular file")
        if status.st_size == 0:
            raise BadImage("empty", "0 bytes")
        with source.open("rb") as stream:
            yield stream, status.st_size
    except OSError as error:
        raise BadImage("unreadable", error.strerror or str(error)) from error


def _decode(stream: _Stream, size: int) -> tuple[Image.Image, str]:
    """The picture as `load_rgb` returns it, and the name of its format."""
    _quieten_pillow()
    head = stream.read(16)
    stream.seek(0)
    try:
        with Image.open(stream) as image:
            kind = image.format or "img"
            if isinstance(image, ImageFile.StubImageFile) or kind in _NO_PICTURE:
                raise BadImage("not_an_image", f"{kind} file")
            if min(image.size) < SMALLEST_SIDE:
                raise BadImage("too_small", f"{image.width} x {image.height} pixels")
            image.load()
            picture = _to_rgb(_upright(image))
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise _unidentified(head) from None
    except Image.DecompressionBombError as error:
        raise BadImage("decompression_bomb", str(error)) from error
    except MemoryError as error:
        raise BadImage("unreadable", "not enough memory to decode it") from error
    # Pillow's plugins raise whatever a damaged file makes them stumble over: IndexError, KeyError, struct.error ...
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the picture
        raise BadImage(_why(error, head, size), f"{type(error).__name__}: {error}") from error
    # Some writers embed the EXIF they find here: a saved copy would be turned a second time.
    picture.info = {}
    return picture, kind


def _quieten_pillow() -> None:
    """Silence Pillow's warnings in this process.

    They tell of damaged metadata and of large pictures, which decide nothing here, and for a million photos would bury
    the progress bar. Not by `warnings.catch_warnings`: it is not safe among threads.
    """
    quiet = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if quiet not in warnings.filters:
        warnings.filterwarnings("ignore", category=Warning, module=r"PIL\.")


def _unidentified(head: bytes) -> BadImage:
    kind = _signature(head)
    if kind is None:
        return BadImage("not_an_image", f"no known picture format; it begins with {head!r}")
    return BadImage("undecodable", f"begins as {kind}, but Pillow cannot read its header or lacks this format")


def _signature(head: bytes) -> str | None:
    for kind, pattern in _SIGNATURES.items():
        if re.match(pattern, head, re.DOTALL):
            return kind
    return None


def _why(error: Exception, head: bytes, size: int) -> str:
    # libwebp does not say why it fails; a RIFF header states the length that follows it.
    riff_cut = head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > size
    return "truncated" if riff_cut or _ENDS_EARLY.search(str(error)) else "undecodable"


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; after `load`, which for TIFF applies it itself."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # junk EXIF, as in ImageNet: the picture itself is whole
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    deep = "I;16" if image.mode.startswith("I;16") else image.mode
    if deep in _RANGES:
        return _eight_bits(image, deep).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Scale a one-channel picture of mode `I;16`, `I` or `F` to 0..255 by the range of its type, mode L."""
    values = np.asarray(image)
    holes = _holes(image, values)
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    least, most = float(finite.min()), float(finite.max())
    fitting = ((low, high) for low, high in _RANGES[mode] if low <= least and most <= high)
    low, high = next(fitting, (least, most))
    scaled = np.rint((finite - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)
    scaled[holes] = 255
    return Image.fromarray(scaled)


def _holes(image: Image.Image, values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Pixels of the value that PNG's tRNS chunk declares transparent."""
    key = image.info.get("transparency")
    return np.asarray(values == key) if isinstance(key, int) else np.zeros(values.shape, dtype=bool)
