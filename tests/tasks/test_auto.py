"""What auto means, and that it is found without torch where it can be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import auto

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (auto.tower_dtype("float32"), auto.training_dtype("bfloat16")) == ("float32", "bfloat16")
    monkeypatch.setattr(auto, "gpu_here", lambda: True)
    assert (auto.tower_dtype("auto"), auto.training_dtype("auto")) == ("float16", "bfloat16")
    assert (auto.tower_dtype("float32"), auto.training_dtype("float32")) == ("float32", "float32")


def test_a_cpu_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["bfloat16", "float32"]
    monkeypatch.setattr(auto, "gpu_here", lambda: False)
    monkeypatch.setattr("models.training.training_dtype", lambda asked: answers.pop(0))
    assert [auto.training_dtype("auto") for _ in range(3)] == ["bfloat16"] * 3
    (file,) = tmp_path.glob("pace/training-*.json")
    assert json.loads(file.read_text())["machine"].keys() == {"processor", "limit", "torch"}
    monkeypatch.setattr(auto, "processor", lambda: "another")
    assert auto.training_dtype("auto") == "float32"


def test_torch_decides_where_a_driver_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # and torch is imported
    assert auto.gpu_here()


def test_without_a_driver_torch_is_not_imported() -> None:
    program = (
        "import sys; from tasks import auto; auto._DEVICES = ('/no/device',)\n"
        "assert not auto.gpu_here() and auto.tower_dtype('auto') == 'float32'\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
