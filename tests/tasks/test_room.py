from pathlib import Path

import pytest

from tasks.room import require_disk, spelt


def test_too_little_room_is_said_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 8 * 10**9})())
    require_disk(tmp_path, 8 * 10**9, "encode")
    with pytest.raises(OSError, match=r"encode needs 21.0 GB, 8.0 GB free in .*store gc"):
        require_disk(tmp_path, 21 * 10**9, "encode")


def test_sizes_are_spelt() -> None:
    assert [spelt(size) for size in (999, 1500, 21e9, 1.3e16)] == ["999 B", "1.5 kB", "21.0 GB", "13,000.0 TB"]
