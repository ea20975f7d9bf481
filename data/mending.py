"""Undoing what a download did to pictures: a lost EXIF orientation, white bars around them.

img2dataset decodes without looking at EXIF and writes files without any, so that turned photos lie on their side; only
its table remembers. Its default resize mode `border` makes every picture a square by white bars.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from data.images import SMALLEST_SIDE, BadImage

ORIENTATION = 0x0112

# exifread's words for EXIF orientations (TIFF 6.0, tag 274), which img2dataset stores in place of the number.
_WORDS = {
    "Mirrored horizontal": 2,
    "Rotated 180": 3,
    "Mirrored vertical": 4,
    "Mirrored horizontal then rotated 90 CCW": 5,
    "Rotated 90 CW": 6,
    "Mirrored horizontal then rotated 90 CW": 7,
    "Rotated 90 CCW": 8,
}
# Bars are white up to JPEG's noise: this share of their values is at least this.
_WHITE, _SHARE = 235, 0.98


@dataclass(frozen=True, slots=True)
class Mend:
    """What is to be undone.

    Attributes:
        orientation: EXIF orientation of the original, 1 to 8.
        unbar: width and height of the original, if white bars around it are to go.
    """

    orientation: int = 1
    unbar: tuple[int, int] | None = None


def lost_orientation(exif: object, size: tuple[int, int] | None) -> int:
    """The EXIF orientation, 1 to 8, that a picture had before img2dataset decoded it; 1 where there is nothing to turn.

    Args:
        exif: the column of that name: JSON text of exifread's tags.
        size: width and height as decoded. Where they are those that EXIF gives, but exchanged, the decoder turned the
            picture already, as early versions did.
    """
    try:
        tags = json.loads(exif) if isinstance(exif, str) else {}
    except ValueError:
        return 1
    if not isinstance(tags, Mapping):
        return 1
    orientation = _WORDS.get(str(tags.get("Image Orientation", "")).strip(), 1)
    if orientation >= 5 and size is not None and size[0] != size[1]:
        stated = (str(tags.get("EXIF ExifImageWidth")), str(tags.get("EXIF ExifImageLength")))
        if stated == (str(size[1]), str(size[0])):
            return 1
    return orientation


def mended(content: bytes, mend: Mend) -> tuple[bytes, tuple[str, ...]]:
    """The file as it should be, and which of "trimmed" and "turned" were done; the same bytes if neither.

    Bars are cut off by encoding anew (JPEG of quality 95); a JPEG is turned by its EXIF tag alone, without loss. A
    picture that still has an orientation of its own is not turned again.

    Raises:
        BadImage: `too_small`, if next to nothing is left between the bars.
    """
    done: tuple[str, ...] = ()
    try:
        with Image.open(BytesIO(content)) as image:
            own = image.getexif().get(ORIENTATION)
            box = _inside(image, mend.unbar)
            if box is not None:
                if min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE:
                    raise BadImage(
                        "too_small", f"{box[2] - box[0]} x {box[3] - box[1]} pixels without the white bars around them"
                    )
                content, done = _jpeg(image.crop(box), image.getexif()), ("trimmed",)
    except BadImage:
        raise
    except Exception:  # whoever decodes it says what is wrong with it
        return content, ()
    if mend.orientation != 1 and not isinstance(own, int):
        content, done = _turned(content, mend.orientation), (*done, "turned")
    return content, done


def _inside(image: Image.Image, original: tuple[int, int] | None) -> tuple[int, int, int, int] | None:
    """Where the picture is between its bars (left, upper, right, lower); None if there are none."""
    if original is None or image.width != image.height or original[0] == original[1] or min(original) < 1:
        return None
    side, scale = image.width, image.width / max(original)
    width, height = (max(1, round(length * scale)) for length in original)
    left, upper = (side - width) // 2, (side - height) // 2
    box = (left, upper, left + width, upper + height)
    values = np.asarray(image.convert("L"))
    outside = np.ones(values.shape, dtype=bool)
    # Two more pixels each way belong to neither: rounding, and JPEG's ringing.
    outside[max(0, upper - 2) : box[3] + 2, max(0, left - 2) : box[2] + 2] = False
    bars = values[outside]
    return box if bars.size and float((bars >= _WHITE).mean()) >= _SHARE else None


def _jpeg(image: Image.Image, exif: Image.Exif) -> bytes:
    stream = BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=95, subsampling=0, exif=exif)
    return stream.getvalue()


def _turned(content: bytes, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    block = exif.tobytes()
    if content[:2] == b"\xff\xd8":  # a JPEG: the tag goes right behind its first marker (EXIF 2.32, 4.5.4)
        return content[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]
    stream = BytesIO()
    with Image.open(BytesIO(content)) as image:
        image.save(stream, "PNG", exif=exif)
    return stream.getvalue()
