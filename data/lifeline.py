"""A process that ends with the one that started it, whatever ends that."""

import ctypes
import os
import signal
import sys

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with(parent: int) -> bool:
    """Let the kernel kill this process as soon as its parent's starting thread is gone (Linux).

    Args:
        parent: process id of whoever started this one.

    Returns:
        Whether the parent is still there: before this call its death went unnoticed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    return os.getppid() == parent
