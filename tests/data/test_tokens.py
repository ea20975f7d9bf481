from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.artifact import DamagedFile, refuse_other_bytes
from data.tokens import read_token_sets, read_tokens, tokens_shape, write_tokens


def some_tokens(images: int, tokens: int = 3, dim: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    return np.random.default_rng(0).standard_normal((images, tokens, dim)).astype(np.float16)


@pytest.mark.parametrize("images", [0, 1, 5])
def test_round_trip_keeps_every_bit(tmp_path: Path, images: int) -> None:
    ids, array = list("abcde")[:images], some_tokens(images)
    write_tokens(tmp_path / "tokens.arrow", ids, array)
    found_ids, found = read_tokens(tmp_path / "tokens.arrow")
    assert found_ids == ids
    assert found.shape == (images, 3, 4)
    assert np.array_equal(found.view(np.uint16), array.view(np.uint16))


def test_reading_maps_memory(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.arrow", ["a", "b"], some_tokens(2))
    before = pa.total_allocated_bytes()
    _, found = read_tokens(tmp_path / "tokens.arrow")
    assert pa.total_allocated_bytes() == before
    assert not found.flags.writeable


def test_slice_of_a_larger_array_is_written_as_it_is(tmp_path: Path) -> None:
    array = some_tokens(10)
    write_tokens(tmp_path / "tokens.arrow", ["a", "b"], array[4:8:2])
    assert np.array_equal(read_tokens(tmp_path / "tokens.arrow")[1], array[[4, 6]])


@pytest.mark.parametrize(
    ("ids", "array", "message"),
    [
        (["a"], some_tokens(2), "1 ids for 2 token sets"),
        (["a", "a"], some_tokens(2), "'a' before 'a'"),
        (["b", "a"], some_tokens(2), "'b' before 'a'"),
        (["a", "b"], some_tokens(2).astype(np.float32), "float32"),
        (["a", "b"], some_tokens(2)[0], r"shape \(3, 4\)"),
    ],
)
def test_wrong_input_is_refused(
    tmp_path: Path, ids: list[str], array: np.ndarray[tuple[int, ...], np.dtype[np.float16]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_tokens(tmp_path / "tokens.arrow", ids, array)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no token file at"):
        read_tokens(tmp_path / "tokens.arrow")
    (tmp_path / "text").write_text("not arrow")
    with pytest.raises(ValueError, match="not an Arrow IPC file"):
        read_tokens(tmp_path / "text")
    with pa.OSFile(str(tmp_path / "other"), "wb") as sink, pa.ipc.new_file(sink, pa.schema({"a": "int8"})) as writer:
        writer.write_batch(pa.record_batch({"a": pa.array([1], pa.int8())}))
    with pytest.raises(ValueError, match="is not a token file"):
        read_tokens(tmp_path / "other")


def test_a_flipped_bit_is_other_content_or_a_damaged_file_and_nothing_worse(tmp_path: Path) -> None:
    """Arrow itself reads beyond the file's end where an offset or a length is wrong."""
    write_tokens(tmp_path / "tokens.arrow", ["a" * 40, "b" * 40], some_tokens(2))
    whole = (tmp_path / "tokens.arrow").read_bytes()
    damaged = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (7 - place % 8)
        path = tmp_path / "flipped.arrow"
        path.unlink(missing_ok=True)
        path.write_bytes(flipped)
        try:
            read_tokens(path)
        except DamagedFile:
            damaged += 1
    assert damaged > len(whole) / 3  # the rest is values, ids and padding


def test_checked_file_shows_a_flipped_bit_wherever_it_is(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "part.arrow", ["a", "b"], some_tokens(2), checked=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.name.startswith("part.crc32-")
    refuse_other_bytes(path)
    assert read_tokens(path)[0] == ["a", "b"]
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedFile, match=r"part\.crc32-\w{8}\.arrow has other bytes than were written"):
            refuse_other_bytes(path)
    plain = write_tokens(tmp_path / "part.arrow", ["a", "b"], some_tokens(2))
    plain.write_bytes(b"anything")
    refuse_other_bytes(plain)  # as in older stores: nothing says what was written


def test_a_mask_comes_back_and_is_not_overlooked(tmp_path: Path) -> None:
    array, mask = some_tokens(3), np.array([[True, False, True], [True, True, True], [False, False, True]])
    write_tokens(tmp_path / "tokens.arrow", ["a", "b", "c"], array, mask)
    ids, found, counting = read_token_sets(tmp_path / "tokens.arrow")
    assert ids == ["a", "b", "c"]
    assert np.array_equal(found, array)
    assert np.array_equal(counting, mask)
    assert tokens_shape(tmp_path / "tokens.arrow") == (3, 3, 4)
    with pytest.raises(ValueError, match="unequal token counts"):
        read_tokens(tmp_path / "tokens.arrow")
    with pytest.raises(ValueError, match=r"mask must be \(3, 3\) bool, got \(3, 2\)"):
        write_tokens(tmp_path / "tokens.arrow", ["a", "b", "c"], array, mask[:, :2])


def test_without_a_mask_all_tokens_count(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.arrow", ["a"], some_tokens(1))
    assert read_token_sets(tmp_path / "tokens.arrow")[2] is None
