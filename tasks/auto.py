"""What dtype=auto means on this machine, found without importing torch where that can be: it takes seconds, and a run
that finds everything in the store needs nothing else of it."""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

from data.artifact import write_json
from data.keys import digest
from tasks.machine import processor
from tasks.store import home

# Without one of these no driver is loaded that torch could use: NVIDIA's, that of WSL, AMD's.
_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


def gpu_here() -> bool:
    """Whether torch finds a GPU."""
    if "torch" not in sys.modules and not any(Path(device).exists() for device in _DEVICES):
        return False
    import torch

    return torch.cuda.is_available()


def tower_dtype(asked: str) -> str:
    """Of a vision tower: float16 where there is a GPU, else float32."""
    if asked != "auto":
        return asked
    return "float16" if gpu_here() else "float32"


def training_dtype(asked: str) -> str:
    """As `models.training.training_dtype`, whose measurement of a CPU is remembered below CIRQUE_HOME/pace.

    So the dtype, and with it the key, stays the same from run to run.
    """
    if asked != "auto" or gpu_here():
        return "bfloat16" if asked == "auto" else asked
    machine = {
        "processor": processor(),
        "limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "torch": version("torch"),
    }
    file = home() / "pace" / f"training-{digest(machine)[:20]}.json"
    if file.exists():
        return str(json.loads(file.read_text(encoding="utf-8"))["dtype"])
    from models.training import training_dtype as measured

    found = measured("auto")
    write_json(file, {"machine": machine, "dtype": found})
    return found
