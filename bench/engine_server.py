"""One vLLM server of a shipped checkpoint, kept up for the time of a measurement."""

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
from pathlib import Path

from models.checkpoints import resolve

_START_SECONDS = 1200


@contextmanager
def served(name: str, log: Path) -> Iterator[list[str]]:
    """Settings of a recipe that let it ask the server: `generate.backend=openai`, and its address.

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
        yield ["generate.backend=openai", f"resources.endpoints=http://127.0.0.1:{port}/v1"]
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its engine is a process of the same group
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise RuntimeError(f"the server of {url} did not start; see {log}")
