"""A Prefect server for one command: it starts while the command still imports, and dies with it.

Prefect can start a temporary server itself, but only when the flow begins, and that server outlives a command that is
killed. A server of the user's own (PREFECT_API_URL, or a profile below PREFECT_HOME) is used where there is one.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.store import home

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_SECONDS = 180  # a first start on two busy cores was seen to take 40
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LocalServer:
    """The server of this command; `wait` returns when flows can use it."""

    def __init__(self, process: subprocess.Popen[bytes] | None, url: str, log: Path) -> None:
        self._process = process
        self._url = url
        self._log = log

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            RuntimeError: if it ends or does not answer in time; the message names its log.
        """
        if self._process is None:
            return
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=10):
                    return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.1)
        state = "ended" if self._process.poll() is not None else f"did not answer within {_PATIENCE_SECONDS} s"
        raise RuntimeError(f"the local Prefect server {state}; see {self._log}")


@contextmanager
def local_server() -> Iterator[LocalServer]:
    """Start a server for this command and point Prefect to it; must be entered before Prefect is imported."""
    settle_environment()
    log = Path(os.environ["PREFECT_HOME"]) / "server.log"
    if _users_server():
        yield LocalServer(None, "", log)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    # The socket listens before the server runs: no other process can take the port meanwhile.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        os.environ["PREFECT_API_URL"] = url
        command = [sys.executable, "-m", "flows.server", str(listener.fileno()), str(os.getpid())]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env={**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # Ctrl-C is for the command, which has yet to report to the server
            )
    try:
        yield LocalServer(process, url, log)
    finally:
        del os.environ["PREFECT_API_URL"]
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settle_environment() -> None:
    """Keep Prefect and the libraries below it quiet and at home; what the user has set stays.

    Nothing is reported to Prefect's makers, and Prefect's files lie below CIRQUE_HOME.
    """
    folder = home() / "prefect"
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what a user has to know is said by the command itself
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(_PATIENCE_SECONDS),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if "PREFECT_HOME" not in os.environ:
        defaults["PREFECT_HOME"] = str(folder)
        defaults["PREFECT_MEMO_STORE_PATH"] = str(folder / "memo_store.toml")  # not derived from PREFECT_HOME in time
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _users_server() -> bool:
    if os.environ.get("PREFECT_API_URL"):
        return True
    if os.environ["PREFECT_HOME"] == str(home() / "prefect"):
        return False
    from prefect.settings import get_current_settings  # two seconds, for those who have profiles of their own

    return get_current_settings().api.url is not None


def serve(handle: int, parent: int) -> None:
    """Serve Prefect's API on an open socket until the parent process ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        fd=handle,
        log_level="error",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
