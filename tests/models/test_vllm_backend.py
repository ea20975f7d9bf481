"""Real vLLM in this process: same answers as transformers, bad prompts set apart, nothing left behind."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import prompts
from data.config import Resources
from models.backends import Engine, Request, Sampling, load_backend
from models.backends.vllm import QUIRKS, VllmGenerator, _quirks, object_pattern, orphans, warn_of_orphans
from models.checkpoints import Located, resolve
from tests.models.tiny_llava import noise_images, tiny_llava_folder

ROOT = Path(__file__).parents[2]
PROMPT = prompts.load("caption").text
TOKENS = 64


def _open(folder: Path, temperature: float = 0.0, **engine: object) -> VllmGenerator:
    settings = Engine.model_validate({"dtype": "float32", "image_side": 96, **engine})
    sampling = Sampling(temperature=temperature, max_tokens=TOKENS)
    return VllmGenerator(resolve(str(folder)), sampling, settings, Resources(), images_per_prompt=2)


def _request(name: str, images: list[Image.Image], prompt: str = PROMPT, **fields: object) -> Request:
    digests = tuple(f"{hash(image.tobytes()):x}" for image in images)
    return Request(name, prompt, tuple(images), digests, **{"seed": 7, **fields})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava_folder(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def generator(folder: Path) -> Iterator[VllmGenerator]:
    generator = _open(folder, structured=True)
    yield generator
    generator.close()


def _transformers_answers(folder: Path, requests: list[Request]) -> list[str]:
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    answers = []
    for request in requests:
        content = [*({"type": "image"} for _ in request.images), {"type": "text", "text": request.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=text, images=list(request.images) or None, return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd"))
    return answers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_greedy_answers_equal_those_of_transformers(folder: Path, generator: VllmGenerator) -> None:
    images = noise_images(6)
    requests = [_request(str(place), images[place : place + 1]) for place in range(4)]
    requests += [_request("two", images[:2]), _request("swapped", images[1::-1]), _request("none", [])]
    responses = generator.generate(requests)
    assert [response.request_id for response in responses] == [request.request_id for request in requests]
    # Random bytes may end within a character: transformers marks each, vLLM none.
    texts = [response.text.rstrip("\ufffd") for response in responses]
    assert texts == _transformers_answers(folder, requests)
    assert len(set(texts)) > 2  # the images decide
    assert {response.finish_reason for response in responses} <= {"stop", "length"}
    # 36 patches an image, in every prompt the same text.
    assert responses[0].tokens_in + 36 == responses[4].tokens_in == responses[6].tokens_in + 72
    assert all(response.tokens_out == TOKENS for response in responses if response.finish_reason == "length")


@pytest.mark.slow
def test_a_bad_prompt_never_takes_others_with_it(generator: VllmGenerator) -> None:
    images = noise_images(3)
    good = [_request("a", images[:1]), _request("c", images[1:2])]
    expected = [response.text for response in generator.generate(good)]
    too_many = _request("many", images)
    long = _request("long", images[:1], "word " * 2000)
    found = generator.generate([long, good[0], too_many, good[1]])
    assert [response.finish_reason for response in (found[0], found[2])] == ["too_long", "error"]
    assert found[0].tokens_in > 1000
    assert "2" in found[2].text  # at most two images may be provided
    assert [found[1].text, found[3].text] == expected


@pytest.mark.slow
def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_neighbours(generator: VllmGenerator) -> None:
    images = noise_images(8, seed=3)
    one = _request("one", images[:1], temperature=2.0)
    alone = generator.generate([one])[0].text
    others = [_request(str(place), [image], temperature=2.0, seed=place) for place, image in enumerate(images)]
    assert generator.generate([*others, one])[-1].text == alone
    texts = {generator.generate([_request("x", images[:1], temperature=2.0, seed=seed)])[0].text for seed in range(9)}
    assert len(texts) > 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:max_rollback_tokens:DeprecationWarning")  # xgrammar warns of vLLM's use of it
def test_a_structured_answer_is_the_object_asked_for(folder: Path, generator: VllmGenerator) -> None:
    requests = [
        _request(str(seed), noise_images(1), temperature=1.0, seed=seed, answer=("caption",)) for seed in range(8)
    ]
    responses = generator.generate(requests)
    assert all(response.text.startswith('{"caption": "') for response in responses)
    whole = [json.loads(response.text) for response in responses if response.finish_reason == "stop"]
    assert whole  # the others were cut off
    assert all(list(answer) == ["caption"] and answer["caption"] for answer in whole)


@pytest.mark.slow
def test_closing_leaves_the_process_as_it_was(folder: Path, generator: VllmGenerator) -> None:
    generator.close()
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    again = load_backend("vllm")(
        resolve(str(folder)), Sampling(max_tokens=4), Engine(dtype="float32"), Resources(), images_per_prompt=1
    )
    assert len(again.generate([_request("a", noise_images(1))])) == 1
    again.close()
    again.close()
    assert torch.set_num_threads is set_num_threads
    assert dict(os.environ) == environment
    assert not torch.distributed.is_initialized()
    assert not orphans()


def test_object_pattern_admits_what_json_reads() -> None:
    pattern = re.compile(object_pattern(("caption", "a.b")))
    for good in ({"caption": "a", "a.b": 'say "x" \\ \n'}, {"caption": "ü", "a.b": "b"}):
        assert pattern.fullmatch(json.dumps(good))
        assert pattern.fullmatch(json.dumps(good, ensure_ascii=False))
    for bad in ('{"caption": "a"}', '{"caption": "", "a.b": "b"}', '{"caption": "a\n", "a.b": "b"}', "{}"):
        assert not pattern.fullmatch(bad)


def test_known_models_get_what_their_configuration_does_not_say() -> None:
    hub = Located("openbmb/MiniCPM-V-2_6", "0" * 40, local=False)
    copy = Located("/models/MiniCPM-V-2_6", "0" * 64, local=True)
    for located in (hub, copy):
        assert _quirks(located, Engine()) == QUIRKS["openbmb/MiniCPM-V-2_6"]
        with pytest.raises(ValueError, match="trust_remote_code=false forbids it"):
            _quirks(located, Engine(trust_remote_code=False))
    stranger = Located("somebody/MiniCPM-V-2_6", "0" * 40, local=False)
    assert not _quirks(stranger, Engine()).trust_remote_code
    assert _quirks(stranger, Engine(trust_remote_code=True)).trust_remote_code


def test_an_unknown_backend_gets_a_suggestion() -> None:
    with pytest.raises(LookupError, match="did you mean 'vllm'"):
        load_backend("vlm")


_TO_BE_KILLED = """
import sys, time
from pathlib import Path
from tests.models.test_vllm_backend import _open, _request
generator = _open(Path(sys.argv[1]))
generator.generate([_request("a", [])])
print("answered", flush=True)
time.sleep(600)
"""


def _descendants(pid: int) -> set[int]:
    children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return children.union(*(_descendants(child) for child in children))


@pytest.mark.slow
def test_a_killed_process_leaves_no_engine(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _TO_BE_KILLED, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert any(line == "answered\n" for line in process.stdout)
        helpers = _descendants(process.pid)
    finally:
        process.kill()
        process.communicate()
    assert helpers == set()  # the engine was in the process itself
    assert orphans() == []


def test_orphans_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A process named like an engine is no orphan while its parent lives, and is one when that is a reaper."""
    engine = subprocess.Popen(["bash", "-c", "exec -a VLLM::EngineCore sleep 60"])
    try:
        while not Path(f"/proc/{engine.pid}/cmdline").read_bytes().startswith(b"VLLM::"):
            time.sleep(0.01)
        assert engine.pid not in dict(orphans())
        monkeypatch.setattr("models.backends.vllm._is_reaper", lambda pid: pid == os.getpid())
        assert dict(orphans())[engine.pid].startswith("VLLM::EngineCore")
        warn_of_orphans()
        assert f"{engine.pid} (VLLM::EngineCore" in caplog.text
        assert f"End them with: kill {engine.pid}" in caplog.text
    finally:
        engine.kill()
        engine.wait()
