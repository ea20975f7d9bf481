import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tasks.locks import hold, is_held


def _hold_for_ever(path: Path, ready: Connection) -> None:
    with hold(path, waiting=lambda holder: None):
        if os.fork() == 0:  # a worker of the holder, which outlives it
            time.sleep(60)
            os._exit(0)
        ready.send(os.getpid())
        time.sleep(60)


def _orphans_of(group: int) -> None:
    os.killpg(group, signal.SIGKILL)


def _in_own_group(path: Path, ready: Connection) -> None:
    os.setsid()
    _hold_for_ever(path, ready)


def test_lock_ends_with_its_process_even_if_a_child_lives_on(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("spawn").Process(target=_in_own_group, args=(tmp_path / "lock", theirs))
    holder.start()
    assert ours.poll(60)
    group = ours.recv()
    try:
        assert is_held(tmp_path / "lock")
        os.kill(group, signal.SIGKILL)
        holder.join(30)
        assert not is_held(tmp_path / "lock")
    finally:
        _orphans_of(group)
        holder.join(30)
        holder.close()


def test_asking_does_not_drop_our_own_lock(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    assert not is_held(path)
    with hold(path, waiting=lambda holder: None):
        assert is_held(path)
        assert path.read_text() == str(os.getpid())
    assert not is_held(path)


def test_thread_of_the_same_process_waits_and_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    rounds: list[float] = []

    class Enough(Exception):  # noqa: N818
        pass

    def give_up(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            raise Enough

    monkeypatch.setattr("tasks.locks.time.sleep", give_up)
    with hold(tmp_path / "lock", waiting=said.append):
        with pytest.raises(Enough), hold(tmp_path / "lock", waiting=said.append):
            pass
        assert is_held(tmp_path / "lock")
    assert said == ["another thread of this process"]
