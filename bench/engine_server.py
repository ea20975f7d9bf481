"""A vLLM server of a shipped checkpoint, kept up for the time of a measurement."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from models.checkpoints import resolve

_START_SECONDS = 1200


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        url: its address, without a path.
        settings: of a recipe, so that it asks this server.
    """

    url: str
    process: "subprocess.Popen[bytes]"

    @property
    def settings(self) -> list[str]:
        return ["generate.backend=openai", f"resources.endpoints={self.url}/v1"]

    def answered(self) -> int:
        """Requests that it has answered so far, by its own count."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        return sum(round(float(line.split()[-1])) for line in lines if line.startswith("vllm:request_success_total"))

    def kill(self) -> None:
        """End it at once, its engine included, which is a process of the same group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def served(name: str, log: Path) -> Iterator[Server]:
    """A server of a checkpoint, for as long as the block lasts.

    Raises:
        RuntimeError: if it does not start; its log is named.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", name),
        *("--model", resolve(name).path_or_id, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
        *("--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(2**28)),
        *("--generation-config", "vllm"),
        *("--limit-mm-per-prompt", json.dumps({"image": {"count": 2, "width": 96, "height": 96}})),
    ]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **quiet}, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield Server(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        Server("", process).kill()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise RuntimeError(f"the server of {url} did not start; see {log}")
