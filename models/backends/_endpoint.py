"""One OpenAI-compatible endpoint: a question sent, its answer read, and what went wrong sorted by whose fault it is."""

import asyncio
import email.utils
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

log = logging.getLogger(__name__)

# Statuses that say "not now"; other 5xx may be the request's doing.
_NOT_NOW = (408, 409, 425, 429, 503, 529)
_UNFIT = (400, 413, 415, 422)
_PROBE_SECONDS = 10.0
_LONGEST_WAIT = 600.0  # of a Retry-After
_MOST_SHOWN = 300  # characters of an endpoint's message
_TOO_LONG = re.compile(r"context.?length|maximum.{0,20}length|too many tokens|prompt is too long", re.IGNORECASE)


class NotNow(Exception):  # noqa: N818  (these four are outcomes; none of them leaves the pool)
    """The endpoint takes nothing at the moment, whatever the request."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait  # seconds that the endpoint asks for


class Failed(Exception):  # noqa: N818
    """This one request got no answer; another time it may."""


class Unfit(Exception):  # noqa: N818
    """The endpoint will never take this request."""

    def __init__(self, message: str, too_long: bool) -> None:
        super().__init__(message)
        self.too_long = too_long


class Unusable(Exception):  # noqa: N818
    """The endpoint will never take any request: wrong address, model or key."""


@dataclass(frozen=True)
class Answer:
    """As in `models.backends.Response`; `steps` as `choice_probabilities` takes them, empty where none were told."""

    text: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    steps: tuple[tuple[str, Mapping[str, float]], ...] = ()


def address(endpoint: str) -> str:
    """The base address of an endpoint, without a slash at its end; a bare host gets the usual "/v1".

    Raises:
        ValueError: if it is no http address, or carries a password or a query.
    """
    parts = urlsplit(endpoint.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"endpoint {endpoint!r} is no address; want for example http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Addresses are logged and recorded with the run.
        raise ValueError(
            f"endpoint {parts.scheme}://{parts.hostname}: an address with a password or a query would end up in logs; "
            "give the plain address, and the key in the environment variable CIRQUE_API_KEY"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


class Endpoint:
    """An address, and what is known of the server behind it.

    Attributes:
        url: the base address.
    """

    def __init__(self, url: str, client: httpx.AsyncClient, key: str | None, timeout: float) -> None:
        """Nothing is sent yet. `key` is wanted here only to keep it out of messages; `timeout` is in seconds."""
        self.url = url
        self._client, self._key, self._timeout = client, key, timeout
        self._not_taken: set[str] = set()
        self._limit_name = "max_tokens"
        self._probing: asyncio.Task[bool] | None = None

    async def ask(self, body: Mapping[str, Any], extras: Mapping[str, Mapping[str, Any]]) -> Answer:
        """Send a request.

        Args:
            body: what every endpoint takes.
            extras: fields that not every one does, by what they are; left out where they are known not to be taken.

        Raises:
            NotNow, Failed, Unfit, Unusable: see there; each says in words what came instead of an answer.
        """
        sent = {what: fields for what, fields in extras.items() if what not in self._not_taken}
        limit = self._limit_name
        try:
            return await self._send(body, sent, limit)
        except Unfit as error:
            if limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit_name = "max_completion_tokens"  # what OpenAI's newer models call it
                return await self.ask(body, extras)
            if error.too_long or not sent:
                raise
            refusal = error
        # Whether an extra is at fault shows when the same request is taken without it.
        for without in [{what} for what in sent] + ([set(sent)] if len(sent) > 1 else []):
            try:
                answer = await self._send(body, {what: sent[what] for what in sent.keys() - without}, limit)
            except Unfit:
                continue
            for what in sorted(without - self._not_taken):
                log.warning("%s takes no %s (%s); it is asked without from now on", self.url, what, refusal)
            self._not_taken |= without
            return answer
        raise refusal

    async def is_there(self) -> bool:
        """Whether the server answers at all; asked once for all who want to know at the same time."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        return await asyncio.shield(self._probing)

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                response = await self._client.get(f"{self.url}/models")
        except (httpx.HTTPError, TimeoutError):
            return False
        return response.status_code < 500

    async def _send(self, body: Mapping[str, Any], extras: Mapping[str, Mapping[str, Any]], limit: str) -> Answer:
        whole = {limit if name == "max_tokens" else name: value for name, value in body.items()}
        for fields in extras.values():
            whole |= fields
        content = json.dumps(whole).encode()
        try:
            async with asyncio.timeout(self._timeout):  # httpx's own limits the silence between two bytes
                response = await self._client.post(f"{self.url}/chat/completions", content=content)
        except TimeoutError:
            raise Failed(f"no answer within {self._timeout:g} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotNow(f"cannot connect ({self._plainly(error)})") from None
        except httpx.HTTPError as error:
            raise Failed(f"the connection broke ({type(error).__name__}: {self._plainly(error)})") from None
        if response.status_code != 200:
            raise self._trouble(response)
        return _read(response)

    def _trouble(self, response: httpx.Response) -> Exception:
        status = response.status_code
        message = f"status {status}: {self._plainly(_message(response)) or 'no message'}"
        wait = _retry_after(response)
        if status in _NOT_NOW or (status >= 500 and wait is not None):
            return NotNow(message, wait)
        if status >= 500:
            return Failed(message)
        if status in _UNFIT:
            return Unfit(message, too_long=bool(_TOO_LONG.search(message)))
        return Unusable(f"{message}; {_ADVICE.get(status, 'is the address right?')}")

    def _plainly(self, message: object) -> str:
        """A message without the key, images or other long codes that an endpoint may send back; cut to one line."""
        text = " ".join(str(message).split())
        if self._key:
            text = text.replace(self._key, "[key]")
        text = re.sub(r"data:image/[^\s\"']*", "[image]", text)
        text = re.sub(r"[A-Za-z0-9+/=_-]{64,}", "[...]", text)
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


_ADVICE = {
    401: "set the environment variable CIRQUE_API_KEY to this endpoint's key",
    403: "set the environment variable CIRQUE_API_KEY to a key that may ask this model",
    404: "is the address right (with /v1), and does it serve the model under this name?",
}


def _read(response: httpx.Response) -> Answer:
    """The first choice of a chat completion."""
    try:
        completion = response.json()
        choice = completion["choices"][0]
        message, reason = choice["message"], str(choice["finish_reason"])
        text, refusal = message.get("content") or "", message.get("refusal")
        usage = completion.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        steps = tuple(_step(one) for one in (choice.get("logprobs") or {}).get("content") or ())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Failed(f"not the JSON of a chat completion ({type(error).__name__})") from None
    if refusal or reason == "content_filter":
        return Answer(str(refusal or text), "filtered", *tokens)
    if reason not in ("stop", "length") or not isinstance(text, str):
        return Answer(f"the endpoint ended it: {reason}", "error", *tokens)
    return Answer(text, reason, *tokens, steps)


def _step(one: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """A token's text, and the logarithms of the probabilities of the likeliest."""
    return str(one["token"]), {str(other["token"]): float(other["logprob"]) for other in one["top_logprobs"]}


def _message(response: httpx.Response) -> str:
    """What the endpoint says is wrong."""
    try:
        found = response.json()
    except ValueError:
        return response.text
    for name in ("error", "message", "detail"):
        while isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the endpoint asks to wait: a number or a date, RFC 9110 section 10.2.3."""
    text = response.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None
