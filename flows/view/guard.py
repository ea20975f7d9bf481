"""What a page on this machine lets in and out: only those who were meant, and nothing to anywhere else."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 20 * 2**20
"""Of a request: an upload is one image."""
# The page's scripts are compiled in the browser by Vue, hence unsafe-eval; everything comes from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self';"
    " form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class Guard:
    """Refuses requests under another name than the server's, from other pages, and too large ones.

    A page elsewhere cannot talk to this one: not by its own requests (their Origin differs), nor by a name of its own
    that leads here (the Host differs).
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None) -> None:
        """`hosts` are the names by which the server may be asked; None: any."""
        self._app = app
        self._hosts = None if hosts is None else set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks for."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope.get("method", "GET"))
        if refusal is not None:
            status, text = refusal
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse(text, status)(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, marked)

    def _refusal(self, headers: Headers, method: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(f"//{host}") not in self._hosts:
            return 400, f"this server is not {host}; ask it as {', '.join(sorted(self._hosts))}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "requests from other pages are refused"
        if method in ("POST", "PUT", "PATCH"):
            length = headers.get("content-length", "")
            if not length.isdigit():
                return 411, "say how long the upload is"
            if int(length) > MOST_BYTES:
                return 413, f"{int(length):,} bytes are too many; at most {MOST_BYTES:,} are taken"
        return None


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
