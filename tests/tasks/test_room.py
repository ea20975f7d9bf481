from pathlib import Path

import pytest

from tasks import room
from tasks.room import available_memory, require_batch, require_disk, require_memory, spelt


def test_too_little_room_is_said_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 8 * 10**9})())
    require_disk(tmp_path, 8 * 10**9, "encode")
    with pytest.raises(OSError, match=r"encode needs 21.0 GB, 8.0 GB free in .*store gc"):
        require_disk(tmp_path, 21 * 10**9, "encode")


def test_sizes_are_spelt() -> None:
    assert [spelt(size) for size in (999, 1500, 21e9, 1.3e16)] == ["999 B", "1.5 kB", "21.0 GB", "13,000.0 TB"]


def test_memory_is_asked_for_with_both_numbers_and_the_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 8 * 10**9)
    require_batch(4096, 10**6, "images", "resources.batch_size")
    with pytest.raises(MemoryError) as info:
        require_batch(16384, 10**6, "images", "resources.batch_size")
    assert str(info.value) == (
        "a batch of 16,384 images needs at least 16.4 GB of memory, 8.0 GB available; "
        "set resources.batch_size to 8,000 or less"
    )
    monkeypatch.setattr(room, "available_memory", lambda: None)
    require_memory(10**18, "rank", "")  # nobody knows, so nobody is stopped


def memory_of(folder: Path, limit: object, used: int, cache: int, names: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")


@pytest.mark.parametrize(
    ("line", "below", "names"),
    [
        ("0::/outer/inner", "", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:memory:/outer/inner", "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)  # fmt: skip
def test_a_container_s_limit_counts(
    line: str, below: str, names: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_CGROUPS", tmp_path)
    monkeypatch.setattr(room, "_OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(f"9:pids:/\n{line}\n")
    machine = available_memory()
    assert machine is not None
    assert machine > 10**6  # of the machine alone: there are no such groups yet
    memory_of(tmp_path / below / "outer" / "inner", "max", 5, 0, names)
    memory_of(tmp_path / below / "outer2", 10, 5, 0, names)  # another's
    assert (available_memory() or 0) > 10**6
    for name, value in zip((*names[:2], "memory.stat"), ("1000", "900", f"{names[2]} 300\n"), strict=True):
        (tmp_path / below / "outer" / name).write_text(value)
    assert available_memory() == 400  # 1000 - 900, and 300 that are given back when they are needed


def test_this_machine_says_what_it_has() -> None:
    free = available_memory()
    assert free is not None
    assert 10**6 < free < 10**14
