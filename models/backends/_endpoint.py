"""One OpenAI-compatible endpoint: a question sent, its answer read, and what went wrong sorted by whose fault it is."""

import asyncio
import email.utils
import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import httpx

log = logging.getLogger(__name__)

# Statuses that say "not now"; other 5xx may be the request's doing.
_NOT_NOW = (408, 409, 425, 429, 503, 529)
_UNFIT = (400, 413, 415, 422)
_COMMON = ("seed", "temperature")  # extras that a refusal has to name before an endpoint is asked without
_PROBE_SECONDS = 10.0
_LONGEST_WAIT = 600.0  # of a Retry-After
_MOST_SHOWN = 300  # characters of an endpoint's message
_TOO_LONG = re.compile(
    r"context.?(length|size|window)|maximum.{0,20}length|too many tokens|prompt is too long", re.IGNORECASE
)
# What servers call the ends that OpenAI calls "stop" and "length". Some name none.
_ENDS = {"eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}
_MOST_TOKENS = 2**31 - 1  # that a table has room for


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

    def names(self, fields: Iterable[str]) -> bool:
        """Whether the endpoint's message speaks of any of these."""
        return any(field in str(self) for field in fields)


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


class Endpoint:
    """An address, and what is known of the server behind it.

    Attributes:
        url: the base address.
    """

    def __init__(self, url: str, client: httpx.AsyncClient, key: str | None, timeout: float) -> None:
        """Nothing is sent yet. `key` is wanted here only to keep it out of messages; `timeout` is in seconds."""
        self.url = url
        self._client, self._key, self._timeout = client, key, timeout
        self._taken: set[str] = set()  # extras
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
            answer = await self._send(body, sent, limit)
        except Unfit as error:
            if error.too_long:
                raise
            if limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit_name = "max_completion_tokens"  # what OpenAI's newer models call it
                return await self.ask(body, extras)
            refusal = error
        else:
            self._taken |= sent.keys()
            return answer
        # Whether an extra is at fault shows when the same request is taken without it. First those that are named, one
        # refusal after the other; then, if a refusal names none, each that not everyone takes.
        left, told = sent, refusal
        while named := [what for what in left if what not in self._taken and told.names(left[what])]:
            left = {what: fields for what, fields in left.items() if what not in named}
            try:
                return self._learned(await self._send(body, left, limit), sent.keys() - left.keys(), refusal)
            except Unfit as error:
                told = error
        doubtful = [what for what in left if what not in self._taken and what not in _COMMON]
        for without in [{what} for what in doubtful] + ([set(doubtful)] if len(doubtful) > 1 else []):
            fewer = {what: fields for what, fields in left.items() if what not in without}
            try:
                return self._learned(await self._send(body, fewer, limit), sent.keys() - fewer.keys(), refusal)
            except Unfit:
                continue
        raise refusal

    def _learned(self, answer: Answer, without: Set[str], refusal: Unfit) -> Answer:
        for what in sorted(without - self._not_taken):
            log.warning("%s takes no %s (%s); it is asked without from now on", self.url, what, refusal)
        self._not_taken |= without
        return answer

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
        status = response.status_code if response.status_code != 200 else _hidden_status(response)
        if status != 200:
            raise self._trouble(response, status)
        return _read(response)

    def _trouble(self, response: httpx.Response, status: int) -> Exception:
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
        text = " ".join(str(message).split()).replace("\\/", "/")  # as some write a slash in JSON
        if self._key:
            for form in (self._key, repr(self._key)[1:-1], json.dumps(self._key)[1:-1]):
                text = text.replace(form, "[key]")
        text = re.sub(r"data:image/[^\s\"']*", "[image]", text)
        text = re.sub(r"[A-Za-z0-9+/=_-]{64,}", "[...]", text)
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


_ADVICE = {
    401: "set the environment variable CIRQUE_API_KEY to this endpoint's key",
    403: "set the environment variable CIRQUE_API_KEY to a key that may ask this model",
    404: "is the address right (with /v1), and does it serve the model under this name?",
}


def _hidden_status(response: httpx.Response) -> int:
    """The status of a trouble that comes with a 200, as some services pass on what is behind them; else 200."""
    try:
        found = response.json()
    except (ValueError, RecursionError):
        return 200
    if not isinstance(found, dict) or not found.get("error") or found.get("choices"):
        return 200
    code = found["error"].get("code") if isinstance(found["error"], dict) else None
    if code == 403:
        return 400  # this one input is not wanted
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _read(response: httpx.Response) -> Answer:
    """The first choice of a chat completion."""
    try:
        completion = response.json()
        choice = completion["choices"][0]
        message, named = choice["message"], choice["finish_reason"]
        text, refusal = _joined(message.get("content")), message.get("refusal")
        usage = completion.get("usage") or {}
        tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        steps = tuple(_step(one) for one in (choice.get("logprobs") or {}).get("content") or ())
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Failed(f"not the JSON of a chat completion ({type(error).__name__})") from None
    reason = "stop" if named is None else str(named).lower()
    reason = _ENDS.get(reason, reason)
    if refusal or reason == "content_filter":
        return Answer(_whole(str(refusal or text)), "filtered", *tokens)
    if reason not in ("stop", "length"):
        return Answer(f"the endpoint ended it: {reason}", "error", *tokens)
    return Answer(_whole(text), reason, *tokens, steps)


def _joined(content: str | list[dict[str, Any]] | None) -> str:
    """The text of a message, which some give in parts.

    Raises:
        TypeError, KeyError, AttributeError: if it is neither.
    """
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError
    return content or ""


def _whole(text: str) -> str:
    """A text that can be stored: halves of surrogate pairs, which JSON can name, are joined or replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(tokens: int | None) -> int:
    return min(max(int(tokens or 0), 0), _MOST_TOKENS)


def _step(one: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """A token's text, and the logarithms of the probabilities of the likeliest."""
    return str(one["token"]), {str(other["token"]): float(other["logprob"]) for other in one.get("top_logprobs") or ()}


def _message(response: httpx.Response) -> str:
    """What the endpoint says is wrong."""
    try:
        found = response.json()
    except (ValueError, RecursionError):
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
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None
