"""Two processes over gloo on the CPU, as torchrun starts them, and what their gradients are compared with."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CHILD = """
import sys, torch
torch.set_num_threads(1)
from models.gradients import Processes
from {module} import {function}
processes = Processes(cpu=True)
assert (processes.size, torch.distributed.get_backend()) == (2, "gloo")
torch.save({function}(processes), f"{{sys.argv[1]}}/{{processes.rank}}.pt")
torch.distributed.destroy_process_group()
"""


def two_processes(module: str, function: str, folder: Path) -> list[Any]:
    """What `module.function(processes)` gives in each of two processes: tensors, numbers, lists and dicts of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    code = _CHILD.format(module=module, function=function)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    try:
        assert [child.wait(timeout=600) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-5) -> None:
    """The same weights have the same gradients, but for rounding."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=atol, rtol=1e-4, msg=name)
