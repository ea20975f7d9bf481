"""Places of images in tables."""

from pathlib import Path

import pyarrow as pa
import pytest

from data.images import BadImage, load_rgb
from data.places import Span, content_digests, is_own, place_digest, place_of, read_bytes, uri_of


def test_a_file_and_a_stretch_of_one(tmp_path: Path) -> None:
    path = tmp_path / "a:b+c"
    path.write_bytes(b"0123456789")
    for place, content in ((path, b"0123456789"), (Span(path, 2, 3), b"234")):
        uri = uri_of(place)
        assert place_of(uri, Path("/elsewhere")) == place
        assert read_bytes(place) == content
        assert not is_own(uri)
    # SHA-256 of "234"
    assert place_digest(Span(path, 2, 3)) == "114bd151f8fb0c58642d2170da4ae7d7c57977260ac2cc8905306cab6b2acabc"


def test_relative_places_are_the_artifact_s_own(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.tar").write_bytes(b"abc")
    uri = uri_of(Span(Path("images/0.tar"), 1, 2))
    assert uri == "span:1+2:images/0.tar"
    assert is_own(uri)
    assert is_own("images/a.png")
    assert read_bytes(place_of(uri, tmp_path)) == b"bc"
    assert place_of("images/a.png", tmp_path) == tmp_path / "images/a.png"


def test_a_stretch_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(OSError, match="ends 2 bytes before the image does"):
        Span(tmp_path / "a", 1, 4).read()
    with pytest.raises(BadImage, match=r"unreadable: .* ends 2 bytes before"):
        load_rgb(Span(tmp_path / "a", 1, 4))


def test_digests_are_of_the_bytes_that_are_there() -> None:
    table = pa.table({"sha256": ["original", "same"], "stored_sha256": ["stored", None]})
    assert content_digests(table).to_pylist() == ["stored", "same"]
