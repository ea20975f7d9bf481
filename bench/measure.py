"""Peak memory, processor time and load, the same way in every measurement."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def reset_peak() -> None:
    """Let the kernel's record of this process's largest resident memory start anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident_mib(peak: bool) -> float:
    """Resident memory of this process now, or its largest since `reset_peak`, in MiB."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Run once: core-seconds (all threads), wall seconds, and peak memory above what was resident before, in MiB."""
    reset_peak()
    before = resident_mib(peak=False)
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    seconds = {"core_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
    del result
    # The kernel counts pages by core and adds them up now and then: its peak may lie a bit below what it said before.
    return {**seconds, "peak_mib": max(0.0, resident_mib(peak=True) - before)}


def load() -> float:
    """Load average of the last minute, to be read beside absolute times."""
    return round(os.getloadavg()[0], 1)
