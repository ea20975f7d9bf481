import errno

import httpx
import pytest

from tasks.passing import may_pass


class EngineDeadError(Exception):
    """As vLLM names it."""


def caused(cause: Exception) -> Exception:
    error = RuntimeError("no answer")
    error.__cause__ = cause
    return error


def answered(status: int) -> Exception:
    request = httpx.Request("GET", "http://hub")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(), TimeoutError(), OSError(errno.EHOSTUNREACH, "no route"), httpx.ReadTimeout(""),
        httpx.ConnectError(""), EngineDeadError(), caused(ConnectionRefusedError()), answered(503), answered(429),
    ],
)  # fmt: skip
def test_network_and_engines_may_come_back(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("low > high"), FileNotFoundError(), OSError(errno.ENOSPC, "no space"), MemoryError(), LookupError(),
        caused(ValueError()), answered(404), answered(401), RuntimeError("refused all prompts"),
    ],
)  # fmt: skip
def test_mistakes_and_full_disks_stay(error: Exception) -> None:
    assert not may_pass(error)
