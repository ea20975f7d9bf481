"""A Prefect server for one command: it starts while the command still imports, and dies with it.

A command that finds everything in the store needs none, and starts none.

Prefect can start a temporary server itself, but only when the flow begins, and that server outlives a command that is
killed. A server of the user's own (PREFECT_API_URL, or a profile below PREFECT_HOME) is used where there is one.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.lifeline import end_with
from tasks.store import home

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_SECONDS = 180  # a first start on two busy cores was seen to take 40


class ServerError(Exception):
    """There is no Prefect server to work with; the message says why and what to do."""


class LocalServer:
    """The server of this command, or the user's own.

    Attributes:
        own: whether it is this command's: it starts with `start`, and nobody looks at its pages.
    """

    def __init__(self, listener: socket.socket | None, url: str, log: Path) -> None:
        self.own = listener is not None
        self._listener = listener
        self._url = url
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start it; nothing if it was begun before, or is the user's."""
        if self._listener is None or self._process is not None:
            return
        command = [sys.executable, "-m", "flows.server", str(self._listener.fileno()), str(os.getpid())]
        with self._log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env={**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"},
                pass_fds=[self._listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # Ctrl-C is for the command, which has yet to report to the server
            )

    def wait(self) -> None:
        """Wait until the server answers; it is started if it was not. The user's own has to be up.

        Raises:
            ServerError: if it ends or does not answer in time, or the user's own cannot be used.
        """
        self.start()
        if self._process is None:
            _ask_users_server()
            return
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=10):
                    break
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.1)
        else:
            raise self._failed()
        assert self._listener is not None
        self._listener.close()  # the server has its own copy; with this one a dead server would be waited for

    def _failed(self) -> ServerError:
        assert self._process is not None
        state = "ended" if self._process.poll() is not None else f"did not answer within {_PATIENCE_SECONDS} s"
        return ServerError(
            f"the Prefect server that this command started {state}; {self._log} says why. A server of your own is used"
            " instead if PREFECT_API_URL names it (docs/operate.md)"
        )

    def stop(self) -> None:
        """End it, if it was started."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def local_server() -> Iterator[LocalServer]:
    """A server for this command, not yet started, to which Prefect is pointed; to be entered before Prefect is
    imported."""
    settle_environment()
    log = Path(os.environ["PREFECT_HOME"]) / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)  # Prefect makes no folders above it, and would warn
    if _users_server():
        yield LocalServer(None, "", log)
        return
    # The socket listens before the server runs: no other process can take the port meanwhile.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        os.environ["PREFECT_API_URL"] = url
        server = LocalServer(listener, url, log)
        try:
            yield server
        finally:
            del os.environ["PREFECT_API_URL"]
            server.stop()


def settle_environment() -> None:
    """Keep Prefect and the libraries below it quiet and at home; what the user has set stays.

    Nothing is reported to Prefect's makers, and Prefect's files lie below CIRQUE_HOME.
    """
    folder = home() / "prefect"
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what a user has to know is said by the command itself
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # an event that came too late for its server, for one
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


def _ask_users_server() -> None:
    """Ask what Prefect asks when a flow begins, whose own answer would be a page of calls."""
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch()
    except (RuntimeError, httpx.HTTPError) as error:
        cause = error.__cause__
        said = f"{error} ({str(cause) or type(cause).__name__})" if cause else str(error)
        raise ServerError(
            f"your Prefect server cannot be used: {said.splitlines()[0]}. Start it with 'prefect server start', or"
            " correct PREFECT_API_URL, which ends in /api; without one, this command starts a server of its own"
        ) from error


def serve(handle: int, parent: int) -> None:
    """Serve Prefect's API on an open socket until the parent process ends."""
    if not end_with(parent):
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
