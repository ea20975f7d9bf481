"""A store for each test that asks for one; benchmarks and a checkpoint that several files of tests only read."""

from pathlib import Path

import pytest

from data.tiny_layouts import write_layouts


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty CIRQUE_HOME of the test's own."""
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "cirque"))
    return tmp_path / "cirque"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world in the four official layouts."""
    root = tmp_path_factory.mktemp("layouts")
    write_layouts(root, groups=3, queries=3)
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BLIP-2 with random weights."""
    from tests.models.tiny_blip2 import tiny_checkpoint  # torch takes seconds to import

    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "first")
