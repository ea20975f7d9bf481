"""What img2dataset writes down of every row it tried: the address, the caption, the original, the failure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.images import SMALLEST_SIDE
from data.mending import Mend, lost_orientation
from data.places import Place
from data.sources import Item

_COLUMNS = ("key", "status", "error_message", "caption", "url", "sha256", "exif", "original_width", "original_height")
_DIGEST = re.compile(r"[0-9a-f]{64}")

# By status, what its messages have in common; the last of each fits all. Messages hold addresses and numbers, so that
# they cannot be counted as they are.
_FAILURES: dict[str, tuple[tuple[str, str], ...]] = {
    "failed_to_download": (
        ("robots_tag", r"X-Robots-Tag"),
        ("timeout", r"timed? ?out"),
        ("no_host", r"Name or service not known|getaddrinfo|name resolution|nodename nor servname|No address"),
        ("refused", r"Connection refused|Errno 111"),
        ("broken_off", r"Connection reset|Remote end closed|IncompleteRead|Connection aborted|Errno 104"),
        ("unreachable", r"No route to host|Network is unreachable|Errno 113|Errno 101"),
        ("ssl", r"SSL|CERTIFICATE|TLS"),
        ("bad_url", r"unknown url type|no host given|nonnumeric port|InvalidURL|control characters|codec can't"),
        ("other", r""),
    ),
    "failed_to_resize": (
        ("image_too_small", r"^image too small"),
        ("image_too_large", r"^image area too large"),
        ("aspect_ratio", r"^aspect ratio too large"),
        ("empty", r"!buf\.empty\(\)"),
        ("not_decodable", r"Image decoding error"),
        ("other", r""),
    ),
}
_HTTP = re.compile(r"HTTP Error (\d{3})")


@dataclass(frozen=True, slots=True)
class Record:
    """A row of img2dataset's table, or of the JSON beside an image; what is unknown is None."""

    failure: tuple[str, str] | None
    """Reason and detail, if it was not downloaded."""
    caption: str | None
    url: str | None
    sha256: str | None
    exif: str | None
    size: tuple[int, int] | None
    """Width and height of the original as it was decoded."""

    def item(self, image_id: str, place: Place | bytes, label: str | None, caption: str | None, trim: bool) -> Item:
        """The image as an item.

        Args:
            image_id: its id.
            place: where its bytes are, or they themselves.
            label: its class.
            caption: for a record without one.
            trim: whether white bars are to go.
        """
        caption = (self.caption if self.caption is not None else caption or "").strip() or None
        if self.size is not None and min(self.size) < SMALLEST_SIDE:
            # Enlarged by img2dataset such a picture looks like any other.
            refused = "too_small", f"{self.size[0]} x {self.size[1]} pixels before it was resized"
            return Item(image_id, None, None, label, caption, refused)
        mend = Mend(lost_orientation(self.exif, self.size), self.size if trim else None)
        payload = place if isinstance(place, bytes) else None
        location = None if isinstance(place, bytes) else place
        needed = mend if mend != Mend() else None
        return Item(image_id, location, payload, label, caption, None, None, self.url, self.sha256, needed)


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Key and record of each row of a shard's table.

    Raises:
        ValueError: if it is no table of img2dataset, or an unfinished one.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in _COLUMNS if name in file.schema_arrow.names]
            if not {"key", "status"} <= set(names):
                raise ValueError(f"{path} has the columns {file.schema_arrow.names}; img2dataset writes key and status")
            for batch in file.iter_batches(columns=names):
                for row in batch.to_pylist():
                    yield str(row["key"]), record(row)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {error}") from error


def record(row: Mapping[str, Any]) -> Record:
    """The record that a row of the table, or the JSON beside an image, amounts to; unknown fields are ignored."""
    size = (row.get("original_width"), row.get("original_height"))
    digest = row.get("sha256")
    return Record(
        failure=_failure(row.get("status"), row.get("error_message")),
        caption=_text(row.get("caption")),
        url=_text(row.get("url")),
        sha256=digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None,
        exif=_text(row.get("exif")),
        size=size if isinstance(size[0], int) and isinstance(size[1], int) else None,  # type: ignore[arg-type]
    )


def _failure(status: object, message: object) -> tuple[str, str] | None:
    """Reason and detail of a row that img2dataset could not keep; None for one that it kept."""
    if status in (None, "success"):
        return None
    text = " ".join(str(message or "").split())
    http = _HTTP.search(text) if status == "failed_to_download" else None
    if http is not None:
        return f"failed_to_download_http_{http[1]}", text
    for name, pattern in _FAILURES.get(str(status), ()):
        if re.search(pattern, text, re.IGNORECASE):
            return f"{status}_{name}", text or "without a message"
    return "failed", f"status {status}: {text or 'without a message'}"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
