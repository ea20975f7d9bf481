"""Which way of ranking: exact or by candidates, and how long it will take."""

import json
import os
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from data.artifact import write_json
from data.keys import digest
from tasks.machine import processor
from tasks.store import home

if TYPE_CHECKING:
    import torch

    from models.pace import Pace

SMALL = 400_000_000
"""Scores that need no measurement: some minutes on any machine."""
BRIEF = 20_000_000
"""Scores that need no estimate: some seconds."""
FLAT_MOST = 1_000_000
"""Images up to which comparing with all is faster than inverted lists at thousands of neighbours."""

Index = Literal["flat", "ivf", "pq"]


class Resolved(BaseModel):
    """What `auto` came to; it decides rows, so it is part of the stage's key."""

    mode: Literal["exact", "candidates"]
    index: Index | None = None


def choose_mode(references: int, shape: tuple[int, int, int], depth: int, hours: float, audit: int) -> Resolved:
    """Exact if it takes at most `hours` on this machine, or if the audit alone would rank as many references."""
    images, tokens, dim = shape
    if references * images <= SMALL or references <= audit:
        return Resolved(mode="exact")
    if exact_hours(references, shape, pace(tokens, dim, depth)) <= hours:
        return Resolved(mode="exact")
    return Resolved(mode="candidates")


def choose_index(images: int, dim: int) -> Index:
    """All vectors compared while that is fastest and they fit a quarter of the memory; else lists, else short codes."""
    size, memory = images * dim * 4, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory // 4:
        return "pq"
    return "flat" if images < FLAT_MOST else "ivf"


def exact_hours(references: int, shape: tuple[int, int, int], measured: "Pace") -> float:
    """Hours of exact ranking on the threads that torch uses."""
    import torch

    return measured.exact_seconds(references, shape[0]) / torch.get_num_threads() / 3600


def pace(tokens: int, dim: int, depth: int) -> "Pace":
    """This machine's pace for such tokens, measured once and then remembered below CIRQUE_HOME/pace.

    So the mode that depends on it, and with it the key, stays the same from run to run.
    """
    import torch

    from models.native import kernel
    from models.pace import Pace, measured_pace

    machine = {
        "native": kernel() is not None,
        "processor": processor(),
        "limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "torch": torch.__version__,
        "tokens": tokens,
        "dim": dim,
        "depth": depth,
    }
    file = home() / "pace" / f"{digest(machine)[:20]}.json"
    if file.exists():
        return Pace(**json.loads(file.read_text(encoding="utf-8"))["pace"])
    found = measured_pace(tokens, dim, depth)
    write_json(file, {"machine": machine, "pace": found._asdict()})
    return found


def way(dtype: "torch.dtype") -> str:
    """How a first pass is computed, in words."""
    name = str(dtype).removeprefix("torch.")
    return "by the native kernel" if name == "int16" else f"by torch in {name}"


def duration(seconds: float) -> str:
    """A rough time in words: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
