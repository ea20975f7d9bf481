"""Engines side by side: order kept, devices divided, nothing left behind, a death told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from data.config import Resources
from models.backends import BrokenOff, Engine, Request, Response, Sampling
from models.backends._replicas import Replicas
from models.backends.vllm import device_shares
from models.checkpoints import Located

ROOT = Path(__file__).parents[2]
LOCATED = Located("owner/model", "r1", local=False)


class Telling:
    """Answers with its process and its devices; the prompt "die" kills it, "fail" makes it raise."""

    model, revision = "model", "r1"

    def __init__(self) -> None:
        self._begun: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise NotImplementedError("it overlaps")

    def begin(self, requests: Sequence[Request]) -> None:
        self._begun += requests

    def finish(self, least: int) -> list[Response]:
        done, self._begun = self._begun[:least], self._begun[least:]
        if any(request.prompt == "die" for request in done):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(request.prompt == "fail" for request in done):
            raise MemoryError("no room for this one")
        text = f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
        return [Response(request.request_id, text, "stop", 1, len(self._begun)) for request in done]

    def close(self) -> None:
        pass


def opener(
    located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
) -> Telling:
    if located.revision == "broken":
        raise ValueError("no such weights")
    return Telling()


def replicas(located: Located = LOCATED) -> Replicas:
    return Replicas(opener, located, Sampling(), Engine(), Resources(), 2, ["0,1", "2,3"])


def requests(*prompts: str) -> list[Request]:
    return [Request(str(place), prompt, (), (), 0) for place, prompt in enumerate(prompts)]


@pytest.fixture
def two() -> Iterator[Replicas]:
    opened = replicas()
    yield opened
    opened.close()


def test_a_call_is_divided_and_put_together_again(two: Replicas) -> None:
    assert (two.model, two.revision) == ("model", "r1")
    found = two.generate(requests(*"abcde"))
    assert [response.request_id for response in found] == list("01234")
    workers = [tuple(response.text.split()) for response in found]
    assert [devices for _, devices in workers] == ["0,1", "0,1", "2,3", "2,3", "2,3"]
    assert len({pid for pid, _ in workers}) == 2
    assert str(os.getpid()) not in {pid for pid, _ in workers}
    assert len(two.generate(requests("a"))) == 1
    two.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid, _ in workers)


def test_more_is_taken_while_some_is_under_way(two: Replicas) -> None:
    two.begin(requests(*"abc"))
    two.begin([Request(str(place), "d", (), (), 0) for place in range(3, 8)])
    first, second = two.finish(2), two.finish(8)
    assert [response.request_id for response in first] == ["0", "1"]
    assert [response.tokens_out for response in first] == [2, 4]  # what each engine has besides
    assert [response.request_id for response in second] == ["3", "4", "2", "5", "6", "7"]
    assert [response.tokens_out for response in second] == [0] * 6
    two.begin(requests("a"))  # of which the first engine gets none
    assert [response.request_id for response in two.finish(1)] == ["0"]


def test_what_the_others_answered_outlives_a_death(two: Replicas) -> None:
    with pytest.raises(BrokenOff, match="engine 2 of 2 died") as caught:
        two.generate(requests("a", "b", "c", "die"))
    assert [response.request_id for response in caught.value.responses] == ["0", "1"]
    two.begin(requests("a", "b"))
    with pytest.raises(BrokenOff, match="engine 2 of 2 died") as caught:
        two.finish(2)
    assert [response.request_id for response in caught.value.responses] == ["0"]


def test_what_the_others_answered_outlives_a_failure(two: Replicas) -> None:
    told = r"engine 1 of 2 failed \(MemoryError: no room for this one\); what the others answered is kept"
    with pytest.raises(BrokenOff, match=told) as caught:
        two.generate(requests("a", "fail", "c", "d"))
    assert [response.request_id for response in caught.value.responses] == ["2", "3"]


def test_what_stops_an_engine_from_starting_is_told() -> None:
    with pytest.raises(ValueError, match="no such weights"):
        replicas(Located("owner/model", "broken", local=False))


_PARENT = """
import time
from tests.models.test_replicas import replicas, requests
two = replicas()
print(*(response.text.split()[0] for response in two.generate(requests("a", "b"))), flush=True)
time.sleep(600)
"""


def test_engines_end_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        workers = parent.stdout.readline().split()
    finally:
        parent.kill()
        parent.communicate()
    assert len(set(workers)) == 2
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_devices_are_shared_out() -> None:
    resources = Resources(data_parallel=2, tensor_parallel=2)
    assert device_shares(resources, "4,5,6,7,8", 5) == ["4,5", "6,7"]
    assert device_shares(resources, None, 4) == ["0,1", "2,3"]
    with pytest.raises(ValueError, match=r"data_parallel=2 x tensor_parallel=2 needs 4 GPUs, there are 3"):
        device_shares(resources, None, 3)
