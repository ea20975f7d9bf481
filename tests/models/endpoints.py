"""A small OpenAI-compatible server in a thread, as faulty as a test wants it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server does with a request: waits, then answers or breaks off.

    Attributes:
        body: as it is; None closes the connection without an answer.
        cut: bytes that are missing at the body's end, after which the connection closes.
    """

    body: str | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cut: int = 0
    kind: str = "application/json"


def good(text: str, finish: str = "stop", **message: Any) -> Reply:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return Reply(json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}))


def trouble(status: int, message: str = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps({"error": {"message": message, "code": status}}), status, named)


@dataclass
class Server:
    """What came in so far.

    Attributes:
        url: base address.
        bodies: of the chat requests, in order of arrival.
        keys: of their Authorization headers.
        most: chat requests that were under way at the same time, at the most.
    """

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    under_way: int = 0
    most: int = 0


def prompt_of(body: dict[str, Any]) -> str:
    """The text of the user's turn."""
    return str(body["messages"][0]["content"][-1]["text"])


@contextmanager
def serving(
    decide: Callable[[dict[str, Any], int], Reply], probe: Callable[[], Reply] = lambda: Reply('{"data": []}')
) -> Iterator[Server]:
    """Serve `decide(body, times this was asked before)` for chat requests and `probe()` for any GET."""
    guard = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            found = probe()
            time.sleep(found.seconds)
            self._send(found)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with guard:
                before = sum(one["messages"] == body["messages"] for one in server.bodies)
                server.bodies.append(body)
                server.keys.append(self.headers["Authorization"])
                server.under_way += 1
                server.most = max(server.most, server.under_way)
            try:
                found = decide(body, before) if self.path == "/v1/chat/completions" else trouble(404, "no such path")
                time.sleep(found.seconds)
            finally:
                with guard:
                    server.under_way -= 1
            self._send(found)

        def _send(self, reply: Reply) -> None:
            try:
                if reply.body is None:
                    self.close_connection = True
                    return
                content = reply.body.encode()
                self.send_response(reply.status)
                for name, value in {"Content-Type": reply.kind, **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) - reply.cut])
                self.close_connection = reply.cut > 0
            except OSError:
                self.close_connection = True  # the client did not wait

    class Listener(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    listener = Listener(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listener.server_address[1]}/v1")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
