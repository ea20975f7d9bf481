"""A store for each test that asks for one."""

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty CIRQUE_HOME of the test's own."""
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "cirque"))
    return tmp_path / "cirque"
