"""The pool of endpoints against servers that do what servers do."""

import base64
import io
import json
import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import pytest
from PIL import Image

from data.config import Resources
from models.backends import BrokenOff, Engine, Request, Sampling, check_resources, locate_model
from models.backends import openai as backend
from models.backends.openai import OpenAiGenerator
from models.checkpoints import Located
from tests.models.endpoints import Reply, good, prompt_of, serving, trouble

LOCATED = Located("owner/model", "r1", local=False)
KEY = "key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(backend, "_LONGEST_PAUSE", 0.05)
    monkeypatch.delenv("CIRQUE_API_KEY", raising=False)


@contextmanager
def generator(*urls: str, structured: bool = False, **resources: Any) -> Iterator[OpenAiGenerator]:
    settings = {"endpoints": urls, "request_timeout": 60.0, "patience": 0.1, **resources}
    engine, sampling = Engine(structured=structured), Sampling(max_tokens=9, top_p=0.9)
    opened = OpenAiGenerator(LOCATED, sampling, engine, Resources.model_validate(settings), 2)
    try:
        yield opened
    finally:
        opened.close()


def request(name: str, *images: Image.Image, **fields: Any) -> Request:
    digests = tuple(str(place) for place in range(len(images)))
    return Request(name, f"prompt {name}", images, digests, **{"seed": 5, "answer": ("caption",), **fields})


def requests(count: int) -> list[Request]:
    return [request(str(number)) for number in range(count)]


def echo(body: dict[str, Any], before: int) -> Reply:
    return good(prompt_of(body).upper())


def test_a_request_says_all_that_decides_the_answer() -> None:
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    with serving(echo) as server, generator(server.url) as opened:
        found = opened.generate([request("a", image, image.rotate(90), temperature=0.5)])
    (body,) = server.bodies
    first, second, text = body.pop("messages")[0]["content"]
    assert body == {"model": "owner/model", "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 5}
    assert text == {"type": "text", "text": "prompt a"}
    for part, sent in ((first, image), (second, image.rotate(90))):
        head, _, payload = part["image_url"]["url"].partition(",")
        seen = Image.open(io.BytesIO(base64.b64decode(payload)))
        assert (head, part["type"], seen.mode) == ("data:image/png;base64", "image_url", "RGB")
        assert seen.tobytes() == sent.tobytes()
    assert [(one.request_id, one.text, one.finish_reason, one.tokens_in, one.tokens_out) for one in found] == [
        ("a", "PROMPT A", "stop", 7, 3)
    ]
    assert server.keys == [None]


def test_answers_come_in_order_and_no_endpoint_gets_more_than_its_share() -> None:
    def slow(body: dict[str, Any], before: int) -> Reply:
        time.sleep(random.Random(prompt_of(body)).uniform(0, 0.02))
        return echo(body, before)

    with serving(slow) as one, serving(slow) as two, generator(one.url, two.url, concurrency=3) as opened:
        asked = requests(60)
        assert [response.text for response in opened.generate(asked)] == [one.prompt.upper() for one in asked]
        assert opened.generate([]) == []
    assert (one.most, two.most) == (3, 3)
    assert len(one.bodies) + len(two.bodies) == 60
    assert min(len(one.bodies), len(two.bodies)) > 10


FAULTS = {
    "status 500": trouble(500),
    "status 502": trouble(502),
    "garbage": Reply("<html>busy</html>", kind="text/html"),
    "half JSON": Reply(good("x").body, cut=30),
    "half JSON of the right length": Reply((good("x").body or "")[:40]),
    "no choices": Reply('{"choices": []}'),
    "another form": Reply('[{"choices": 3}]'),
    "nothing": Reply(""),
    "a closed connection": Reply(None),
    "silence": Reply("{}", seconds=4.0),
    "status 429": trouble(429),
    "status 503": trouble(503),
    "status 500 with a time": trouble(500, Retry_After="0"),
    "status 503 with a year that no clock has": trouble(503, Retry_After="Mon, 01 Jan 99999 00:00:00 GMT"),
    "an error with a 200": Reply('{"error": {"message": "insufficient credits", "code": 429}}'),
    "an error with a 200 and no status": Reply('{"error": "hiccup"}'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_asked_again(fault: str) -> None:
    def twice(body: dict[str, Any], before: int) -> Reply:
        return FAULTS[fault] if before < 2 else echo(body, before)

    seconds = 3.0 if fault == "silence" else 60.0
    with serving(twice) as server, generator(server.url, request_timeout=seconds) as opened:
        found = opened.generate(requests(2))
    assert [response.text for response in found] == ["PROMPT 0", "PROMPT 1"]
    assert len(server.bodies) == 6


def test_a_request_that_always_fails_is_given_up_alone(caplog: pytest.LogCaptureFixture) -> None:
    def one_fails(body: dict[str, Any], before: int) -> Reply:
        return trouble(500, "engine hiccup") if prompt_of(body) == "prompt 3" else echo(body, before)

    with serving(one_fails) as server, generator(server.url) as opened:
        found = opened.generate(requests(6))
        # Alone among requests that were answered before, it does not make the endpoint look dead.
        assert opened.generate([request("3")])[0].finish_reason == "error"
        assert opened.generate([request("7")])[0].text == "PROMPT 7"
    assert [response.finish_reason for response in found] == ["stop"] * 3 + ["error"] + ["stop"] * 2
    assert found[3].text == f"no answer after 5 attempts; the last, at {server.url}: status 500: engine hiccup"
    asked = Counter(prompt_of(body) for body in server.bodies)
    assert (asked["prompt 3"], asked["prompt 0"]) == (10, 1)
    assert "left out" not in caplog.text


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_bad_request_is_not_repeated(status: int) -> None:
    def refuses(body: dict[str, Any], before: int) -> Reply:
        return trouble(status, "no such colour") if prompt_of(body) == "prompt 1" else echo(body, before)

    with serving(refuses) as server, generator(server.url) as opened:
        found = opened.generate(requests(3))
    assert (found[1].finish_reason, found[1].text) == ("error", f"{server.url}: status {status}: no such colour")
    assert [found[0].text, found[2].text] == ["PROMPT 0", "PROMPT 2"]
    assert len(server.bodies) == 3


def test_a_prompt_that_does_not_fit_is_told_apart() -> None:
    message = "This model's maximum context length is 1024 tokens. However, you requested 3000 tokens"
    with serving(lambda body, before: trouble(400, message)) as server, generator(server.url) as opened:
        found = opened.generate([request("a")])
    # Its context is the server's affair and may be another tomorrow, so this is no answer to keep.
    assert (found[0].finish_reason, found[0].text) == ("error", f"{server.url}: status 400: {message}")
    assert len(server.bodies) == 1


@pytest.mark.parametrize("fault", [trouble(500), Reply('{"error": {"message": "busy"}}'), Reply("")])
def test_an_endpoint_that_fails_beside_one_that_works_costs_no_answer_and_leaves(fault: Reply) -> None:
    def slowly(body: dict[str, Any], before: int) -> Reply:
        return Reply(good(prompt_of(body)).body, seconds=0.02)

    with (
        serving(lambda body, before: fault) as sick,
        serving(slowly) as well,
        generator(sick.url, well.url, concurrency=4) as opened,
    ):
        for _ in range(4):
            found = opened.generate(requests(40))
            assert [response.text for response in found] == [f"prompt {number}" for number in range(40)]
        asked = len(sick.bodies)
        opened.generate(requests(40))
        assert len(sick.bodies) == asked
    assert max(Counter(prompt_of(body) for body in well.bodies).values()) == 5


def test_an_endpoint_that_fails_costs_no_answer_while_the_other_rests() -> None:
    served = 0

    def limited(body: dict[str, Any], before: int) -> Reply:
        nonlocal served
        served += 1
        return trouble(429, Retry_After="0.3") if served % 20 == 0 else echo(body, before)

    with (
        serving(lambda body, before: trouble(500)) as sick,
        serving(limited) as well,
        generator(sick.url, well.url, concurrency=4) as opened,
    ):
        assert {response.finish_reason for response in opened.generate(requests(60))} == {"stop"}


def test_an_error_of_the_program_loses_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(image: Image.Image) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(backend, "data_url", broken)
    asked = [request("a"), request("b", Image.new("RGB", (2, 2)))]
    with (
        serving(echo) as server,
        generator(server.url, concurrency=1) as opened,
        pytest.raises(BrokenOff, match=r"ended by an error of the program \(ZeroDivisionError\)") as caught,
    ):
        opened.generate(asked)
    assert [response.text for response in caught.value.responses] == ["PROMPT A"]


def test_an_endpoint_that_fails_sometimes_stays(caplog: pytest.LogCaptureFixture) -> None:
    def at_first(body: dict[str, Any], before: int) -> Reply:
        return trouble(500) if before == 0 and prompt_of(body)[-1] in "357" else echo(body, before)

    with serving(at_first) as one, serving(at_first) as two, generator(one.url, two.url, concurrency=4) as opened:
        assert {response.finish_reason for response in opened.generate(requests(60))} == {"stop"}
    assert "left out" not in caplog.text


def test_a_dead_endpoint_leaves_the_pool_and_the_rest_carry_on(caplog: pytest.LogCaptureFixture) -> None:
    def slowly(body: dict[str, Any], before: int) -> Reply:
        return Reply(good(prompt_of(body)).body, seconds=0.05)

    with serving(echo) as dead:
        pass  # the address of a server that is gone
    with serving(slowly) as alive, generator(dead.url, alive.url, concurrency=2) as opened:
        found = opened.generate(requests(30))
        assert [response.text for response in found] == [f"prompt {number}" for number in range(30)]
        assert f"{dead.url}: cannot connect" in caplog.text
        assert f"{dead.url} is left out from now on: failed" in caplog.text
        told = len(caplog.records)
        opened.generate(requests(30))
        assert len(caplog.records) == told  # not even tried


@pytest.mark.parametrize("fault", [trouble(503), Reply("{}", seconds=1.5), Reply(None)])
def test_when_all_are_gone_each_is_named_with_its_failure(fault: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that die in the midst: what they answered is handed over."""
    monkeypatch.setattr(backend, "_ROUNDS", 2)
    if fault.seconds:
        monkeypatch.setattr("models.backends._endpoint._PROBE_SECONDS", 1.0)
    dead = threading.Event()

    def decide(body: dict[str, Any], before: int) -> Reply:
        if int(prompt_of(body).split()[1]) >= 6:
            dead.set()
        return fault if dead.is_set() else echo(body, before)

    def probe() -> Reply:
        return fault if dead.is_set() else Reply("{}")

    with (
        serving(decide, probe) as one,
        serving(decide, probe) as two,
        generator(one.url, two.url, concurrency=1, request_timeout=1.0 if fault.seconds else 60.0) as opened,
        pytest.raises(BrokenOff, match="no endpoint is left that answers for owner/model") as caught,
    ):
        opened.generate(requests(12))
    for server in (one, two):
        assert f"{server.url}: failed " in str(caught.value)
    answered = {response.request_id: response.text for response in caught.value.responses}
    assert 3 <= len(answered) <= 6
    assert all(text == f"PROMPT {name}" for name, text in answered.items())


@pytest.mark.parametrize(("status", "advice"), [(401, "CIRQUE_API_KEY"), (404, "under this name"), (307, "address")])
def test_an_endpoint_set_up_wrong_is_told_at_once(status: int, advice: str) -> None:
    with serving(lambda body, before: trouble(status, "wrong")) as server, generator(server.url) as opened:
        with pytest.raises(BrokenOff, match=advice) as caught:
            opened.generate(requests(40))
        assert f"{server.url}: status {status}: wrong" in str(caught.value)
        assert len(server.bodies) <= 40
        with pytest.raises(BrokenOff, match=advice):
            opened.generate(requests(1))


def test_a_wish_to_wait_is_honoured() -> None:
    times: list[float] = []

    def busy(body: dict[str, Any], before: int) -> Reply:
        times.append(time.monotonic())
        if len(times) == 1:
            return trouble(429, Retry_After="0.5")
        if len(times) == 2:
            return trouble(503, Retry_After=formatdate(time.time() + 2, usegmt=True))
        return echo(body, before)

    with serving(busy) as server, generator(server.url, concurrency=1) as opened:
        assert opened.generate([request("a")])[0].text == "PROMPT A"
    assert times[1] - times[0] >= 0.5
    assert times[2] - times[1] >= 0.9  # dates have whole seconds


def test_pauses_double_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_FIRST_PAUSE", 1.0)
    monkeypatch.setattr(backend, "_LONGEST_PAUSE", 30.0)
    for failures, middle in ((1, 1.0), (2, 2.0), (4, 8.0), (9, 30.0), (5000, 30.0)):
        drawn = [backend._pause(failures) for _ in range(200)]
        assert 0.75 * middle <= min(drawn) < 0.85 * middle
        assert 1.15 * middle < max(drawn) <= 1.25 * middle


def test_a_schema_goes_along_where_it_is_taken() -> None:
    with serving(echo) as server, generator(server.url, structured=True) as opened:
        opened.generate([request("a", answer=("instruction", "caption")), request("b", answer=())])
    by_prompt = {prompt_of(body): body.get("response_format") for body in server.bodies}
    form = by_prompt["prompt a"]
    assert form is not None
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    assert form["json_schema"]["schema"] == {
        "type": "object",
        "properties": {"instruction": {"type": "string"}, "caption": {"type": "string"}},
        "required": ["instruction", "caption"],
        "additionalProperties": False,
    }
    assert by_prompt["prompt b"] is None


def test_an_endpoint_that_takes_no_schema_gets_none(caplog: pytest.LogCaptureFixture) -> None:
    def old(body: dict[str, Any], before: int) -> Reply:
        return trouble(400, "response_format: unknown") if "response_format" in body else echo(body, before)

    with serving(old) as server, generator(server.url, structured=True, concurrency=2) as opened:
        assert [one.finish_reason for one in opened.generate(requests(8))] == ["stop"] * 8
        assert sum("response_format" in body for body in server.bodies) <= 2
    assert caplog.text.count("takes no JSON schema") == 1


def test_probabilities_of_choices_are_told_where_the_endpoint_tells_them(caplog: pytest.LogCaptureFixture) -> None:
    likeliest = [{"token": "yes", "logprob": math.log(0.6)}, {"token": " No", "logprob": math.log(0.2)}]
    step = {"token": "yes", "logprob": math.log(0.6), "top_logprobs": likeliest}

    def knowing(body: dict[str, Any], before: int) -> Reply:
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
        answer = json.loads(good('{"verdict": "yes"}').body or "")
        answer["choices"][0]["logprobs"] = {"content": [step]}
        return Reply(json.dumps(answer))

    def old(body: dict[str, Any], before: int) -> Reply:
        both = {"logprobs", "response_format"} & body.keys()
        return trouble(400, f"unknown: {sorted(both)}") if both else good('{"verdict": "yes"}')

    asked = [request("a", answer=("verdict",), choices=("yes", "no"))]
    with serving(knowing) as server, generator(server.url, structured=True) as opened:
        # 0.6 and 0.2 of the probability fell on the choices: 0.6 / 0.8 and 0.2 / 0.8.
        assert opened.generate(asked)[0].probabilities == pytest.approx((0.75, 0.25))
    with serving(old) as server, generator(server.url, structured=True) as opened:
        for _ in range(2):
            found = opened.generate(asked)[0]
            assert (found.text, found.probabilities) == ('{"verdict": "yes"}', None)
        assert len(server.bodies) == 2 + 1  # without what is named; then it is known
    assert "takes no JSON schema" in caplog.text
    assert "takes no question for probabilities" in caplog.text


@pytest.mark.parametrize(("field", "fields"), [("seed", {"seed"}), ("top_p", {"temperature", "top_p"})])
def test_an_endpoint_that_names_a_field_it_does_not_take_is_asked_without(
    field: str, fields: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    def picky(body: dict[str, Any], before: int) -> Reply:
        return trouble(400, f"Unsupported parameter: '{field}'") if field in body else echo(body, before)

    with serving(picky) as server, generator(server.url, concurrency=2) as opened:
        assert [one.finish_reason for one in opened.generate(requests(8))] == ["stop"] * 8
    assert sum(field in body for body in server.bodies) <= 2
    assert not fields & server.bodies[-1].keys()
    assert caplog.text.count(f"takes no {'seed' if field == 'seed' else 'temperature'}") == 1


def test_fields_that_are_refused_one_after_the_other_are_both_left_out() -> None:
    def picky(body: dict[str, Any], before: int) -> Reply:
        refused = next((field for field in ("temperature", "seed") if field in body), None)
        return trouble(400, f"Unsupported parameter: '{refused}'") if refused else echo(body, before)

    with serving(picky) as server, generator(server.url, structured=True) as opened:
        assert opened.generate(requests(1))[0].finish_reason == "stop"
        assert opened.generate(requests(1))[0].finish_reason == "stop"
    assert len(server.bodies) == 3 + 1
    assert "response_format" in server.bodies[-1]  # of which nobody said a word


def test_a_field_that_was_taken_is_not_doubted_later() -> None:
    def refuses(body: dict[str, Any], before: int) -> Reply:
        return trouble(400, "no such colour") if prompt_of(body) == "prompt 1" else echo(body, before)

    with serving(refuses) as server, generator(server.url, structured=True) as opened:
        opened.generate(requests(1))
        assert [one.finish_reason for one in opened.generate(requests(3))] == ["stop", "error", "stop"]
    assert len(server.bodies) == 4


def test_a_prompt_that_is_too_long_by_either_name_of_the_limit_is_asked_once() -> None:
    message = "'max_tokens' or 'max_completion_tokens' is too large: the maximum context length is 1024 tokens"
    with serving(lambda body, before: trouble(400, message)) as server, generator(server.url) as opened:
        assert opened.generate([request("a")])[0].text == f"{server.url}: status 400: {message}"
    assert len(server.bodies) == 1


def test_the_other_name_of_the_token_limit_is_learned() -> None:
    def new(body: dict[str, Any], before: int) -> Reply:
        if "max_tokens" in body:
            return trouble(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
        return echo(body, before)

    with serving(new) as server, generator(server.url, concurrency=4) as opened:
        assert [one.finish_reason for one in opened.generate(requests(8))] == ["stop"] * 8
    assert server.bodies[-1]["max_completion_tokens"] == 9
    assert sum("max_tokens" in body for body in server.bodies) <= 4


@pytest.mark.parametrize(
    ("reply", "reason", "text"),
    [
        (good('{"caption": "a', "length"), "length", '{"caption": "a'),
        (good("", "content_filter"), "filtered", ""),
        (good("", refusal="I cannot do that"), "filtered", "I cannot do that"),
        (good("", "tool_calls"), "error", "the endpoint ended it: tool_calls"),
        (Reply('{"choices": [{"finish_reason": "stop", "message": {"content": null}}]}'), "stop", ""),
        (good("whole", "eos_token"), "stop", "whole"),
        (good("whole", "STOP"), "stop", "whole"),
        (good("cut", "MAX_TOKENS"), "length", "cut"),
        (Reply('{"choices": [{"finish_reason": null, "message": {"content": "whole"}}]}'), "stop", "whole"),
        (Reply('{"choices": [{"finish_reason": null, "message": {"content": ""}}]}'), "stop", ""),
        (Reply('{"error": {"message": "flagged", "code": 403}}'), "error", "status 400: flagged"),
        (Reply(good("whole").body.replace("10}", "Infinity}").replace("7,", "3e9,")), "stop", "whole"),
        (
            Reply(good("").body.replace('""', '[{"type": "text", "text": "in "}, {"text": "parts"}]')),
            "stop",
            "in parts",
        ),
        (good("half \ud83d and whole \ud83d\ude00"), "stop", "half \ufffd and whole \U0001f600"),
    ],
)
def test_every_end_of_an_answer_has_its_reason(reply: Reply, reason: str, text: str) -> None:
    def decide(body: dict[str, Any], before: int) -> Reply:
        return reply if prompt_of(body) == "prompt a" else echo(body, before)

    with serving(decide) as server, generator(server.url) as opened:
        found = opened.generate([request("a"), request("b")])[0]
    assert (found.finish_reason, found.text.removeprefix(f"{server.url}: ")) == (reason, text)


def test_no_key_and_no_image_in_any_message(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Servers that send everything back in their errors, with every logger at its most talkative."""
    monkeypatch.setenv("CIRQUE_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    payload = backend.data_url(picture).partition(",")[2]

    def talkative(status: int) -> Any:
        def decide(body: dict[str, Any], before: int) -> Reply:
            url = body["messages"][0]["content"][0]["image_url"]["url"]
            return trouble(status, f"Bearer {KEY} sent {url} and again {url.partition(',')[2]}")

        return decide

    told = []
    for status in (400, 401, 429, 500):
        with serving(talkative(status)) as server, generator(server.url) as opened:
            try:
                told.append(opened.generate([request("a", picture)])[0].text)
            except BrokenOff as error:
                told.append(str(error))
            assert server.keys[0] == f"Bearer {KEY}"
    for text in (*told, caplog.text):
        assert KEY not in text
        assert not any(payload[start : start + 40] in text for start in range(0, len(payload) - 40))
    assert "[key]" in told[0]
    assert "[image]" in told[0]


@pytest.mark.parametrize(
    ("endpoints", "match"),
    [
        ((), r"needs the address of a server: resources\.endpoints=http://"),
        (("localhost:8000",), "'localhost:8000' is no address"),
        (("u:secret@host/v1",), "'host/v1' is no address"),
        (("host/v1?key=secret",), "'host/v1' is no address"),
        (("http://host:secret/v1",), "is no address"),
        (("http://host:99999/v1",), "'http://host:99999/v1' is no address"),
        (("http://[::1/v1",), "is no address"),
        (("http://u:secret@host/v1",), "would end up in logs"),
        (("https://host/v1?key=secret",), "would end up in logs"),
        (("http://host/v1", "http://host"), "names an endpoint twice"),
    ],
)
def test_addresses_are_checked_before_anything_starts(endpoints: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        check_resources("openai", Resources(endpoints=endpoints))
    assert "u:secret" not in str(caught.value)
    assert "key=secret" not in str(caught.value)
    check_resources("vllm", Resources())


def test_a_key_comes_without_the_end_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_API_KEY", f"{KEY}\r\n")
    with serving(echo) as server, generator(server.url) as opened:
        opened.generate(requests(1))
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("key", ["two secrets", "two\nsecrets", "s\u00e9crets"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_API_KEY", key)
    with pytest.raises(ValueError, match="the environment variable CIRQUE_API_KEY holds") as caught:
        check_resources("openai", Resources(endpoints=("http://localhost:1",)))
    assert "crets" not in str(caught.value)


def test_a_model_is_what_the_endpoints_call_it() -> None:
    assert locate_model("openai", "gpt-9") == Located("gpt-9", "unstated", local=False)
    assert locate_model("openai", "owner/name@abc") == Located("owner/name", "abc", local=False)


def test_a_closed_generator_says_so() -> None:
    with generator("http://localhost:1/v1") as opened:
        opened.close()
        opened.close()
        with pytest.raises(RuntimeError, match="closed"):
            opened.generate(requests(1))
