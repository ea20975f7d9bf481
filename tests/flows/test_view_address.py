"""The parts of the page that need no browser: its address, its guard, where it listens."""

import asyncio
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.__main__ import app
from flows.view.address import Address
from flows.view.guard import LOOPBACK, MOST_BYTES, Guard
from flows.view.serve import is_loopback, listen
from tasks.view_columns import Condition
from tasks.view_table import Question


def test_an_address_opens_what_it_was_made_of() -> None:
    question = Question(
        search='red "& blue" | ü', conditions=(Condition("rank", "at least", "55"), Condition("style", "is empty")),
        sort="filter: too_long", descending=True, verdict="unjudged", tag="a b", sample=20, seed=3, reason="too_long",
    )  # fmt: skip
    address = Address("dropped", question, page=7, size=48, shown="t/1?&")
    assert Address.read(address.url().partition("?")[2]) == address
    assert Address().url() == "/"
    assert Address.read("") == Address()


@pytest.mark.parametrize("query", ["page=0&size=5", "page=x&size=", "where=rank&verdict=maybe", "sample=-3&seed=1e9"])
def test_what_makes_no_sense_in_an_address_is_left_out(query: str) -> None:
    assert Address.read(query) == Address()


def answer(hosts: list[str] | None, method: str = "GET", kind: str = "http", **headers: str) -> Any:
    """Status of a request that the guard sees, or the type of the first message to a websocket."""
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "headers": raw, "path": "/"}
    asyncio.run(Guard(inner, hosts)(scope, receive, send))
    return sent[0]


def test_only_this_machines_own_pages_are_answered() -> None:
    hosts = list(LOOPBACK)
    assert answer(hosts, host="127.0.0.1:8484")["status"] == 200
    assert answer(hosts, host="[::1]:8484", origin="http://[::1]:8484")["status"] == 200
    assert answer(hosts, host="evil.example:8484")["status"] == 400  # a name that leads here
    assert answer(hosts)["status"] == 400
    assert answer(hosts, host="localhost:1", origin="http://evil.example")["status"] == 403
    assert answer(hosts, kind="websocket", host="localhost:1", origin="null")["type"] == "websocket.close"
    assert answer(None, host="my-machine:8484")["status"] == 200


def test_too_large_an_upload_is_refused_before_it_is_read() -> None:
    hosts = list(LOOPBACK)
    assert answer(hosts, "POST", host="localhost", content_length=str(MOST_BYTES))["status"] == 200
    assert answer(hosts, "POST", host="localhost", content_length=str(MOST_BYTES + 1))["status"] == 413
    assert answer(hosts, "POST", host="localhost", transfer_encoding="chunked")["status"] == 411


def test_answers_say_what_a_browser_may_do() -> None:
    headers = dict(answer(None, host="x")["headers"])
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_loopback_is_told_from_everything_else() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.1", "box")] == (
        [True] * 3 + [False] * 3
    )


def test_a_taken_port_says_what_to_do() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use; try another port, or --port 0"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_nothing_to_show_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["view", "--no-open"])
    assert (result.exit_code, "no run yet" in result.stderr) == (1, True)
