"""Where an ingested image lies: a file, or a stretch of one, such as a member of a tar."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

_SPAN = re.compile(r"span:(\d+)\+(\d+):(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes of a file from byte `start`."""

    path: Path
    start: int
    length: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            OSError: if the file cannot be read, or ends before the stretch does.
        """
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            content = stream.read(self.length)
        if len(content) != self.length:
            raise OSError(f"{self.path} ends {self.length - len(content)} bytes before the image does")
        return content


Place = Path | Span


def uri_of(place: Place) -> str:
    """How a table names a place: the path, or ``span:START+LENGTH:PATH``."""
    return str(place) if isinstance(place, Path) else f"span:{place.start}+{place.length}:{place.path}"


def place_of(uri: str, folder: Path) -> Place:
    """The place that a table names.

    Args:
        uri: as `uri_of` writes it.
        folder: the artifact's; where relative paths start.
    """
    span = _SPAN.fullmatch(uri)
    if span is None:
        return folder / uri  # an absolute path replaces the folder
    return Span(folder / span[3], int(span[1]), int(span[2]))


def is_own(uri: str) -> bool:
    """Whether the artifact itself carries the bytes; others lie where the source had them, and may change."""
    span = _SPAN.fullmatch(uri)
    return not Path(uri if span is None else span[3]).is_absolute()


def read_bytes(place: Place) -> bytes:
    """The encoded image; raises OSError."""
    return place.read_bytes() if isinstance(place, Path) else place.read()


def place_digest(place: Place) -> str:
    """SHA-256 of the encoded image, 64 hexadecimal digits; raises OSError."""
    return hashlib.sha256(read_bytes(place)).hexdigest()


def content_digests(images: pa.Table) -> pa.ChunkedArray:
    """Per row of an ingested table the SHA-256 of the bytes at its uri.

    Two sources may hold differently resized copies of one original; what is computed from pixels is filed under this.
    """
    return pc.coalesce(images["stored_sha256"], images["sha256"])
