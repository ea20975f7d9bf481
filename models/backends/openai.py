"""Any OpenAI-compatible endpoint, or a pool of them: `vllm serve` on other machines, or a service.

Each endpoint has a bounded number of requests under way and takes the next as it answers one, so that a fast endpoint
gets more. What fails is asked again, by another endpoint if there is one: after a growing, jittered pause where the
request may be at fault, while the endpoint as a whole rests where it is not. An endpoint that fails for longer than
`Resources.patience` leaves the pool. A request that an endpoint calls bad is not sent a second time, unless to find out
whether it is a field that not every endpoint takes.
"""

import asyncio
import base64
import io
import logging
import os
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from data.config import Resources
from models.backends import LIKELIEST, BrokenOff, Engine, Request, Response, Sampling, choice_probabilities
from models.backends._endpoint import Endpoint, Failed, NotNow, Unfit, Unusable
from models.checkpoints import Located

log = logging.getLogger(__name__)

KEY_VARIABLE = "CIRQUE_API_KEY"
UNSTATED = "unstated"  # the revision of a model that is named without one
_ATTEMPTS = 5  # at one request
_ROUNDS = 5  # failures one after the other before an endpoint may leave the pool
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds; each pause is twice the one before


def locate(name: str) -> Located:
    """The model as the endpoints name it; "name@revision" tells its answers from those of other weights."""
    model, _, revision = name.rpartition("@") if "@" in name[1:] else (name, "", "")
    return Located(model, revision or UNSTATED, local=False)


def check(resources: Resources) -> None:
    """Raise a ValueError if there is no endpoint, or the key is none that can be sent."""
    if not resources.endpoints:
        raise ValueError(
            "the backend 'openai' needs the address of a server: resources.endpoints=http://localhost:8000/v1"
            " (several are separated by commas)"
        )
    _key()


def _key() -> str | None:
    """What the environment has as a key, without the line's end that a file of secrets leaves on it.

    Raises:
        ValueError: if no header can carry it; without showing it.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(
            f"the environment variable {KEY_VARIABLE} holds a blank, a line's end or a letter outside ASCII; want the "
            "key alone (it is not shown here)"
        )
    return key or None


class OpenAiGenerator:
    """A model behind endpoints.

    Attributes:
        model: the name that the endpoints know.
        revision: as stated by the user; the protocol does not tell.
    """

    def __init__(
        self, located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
    ) -> None:
        """Prepare the connections; nothing is sent yet.

        Raises:
            ValueError: as `check`.
        """
        check(resources)
        self.model, self.revision = located.path_or_id, located.revision
        self._sampling, self._engine, self._resources = sampling, engine, resources
        key = _key()
        self._client = httpx.AsyncClient(
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(None, connect=10.0),  # `Endpoint` limits the whole
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )
        self._members = [
            _Member(Endpoint(url, self._client, key, resources.request_timeout), resources.patience)
            for url in resources.endpoints
        ]
        self._runner: asyncio.Runner | None = asyncio.Runner()

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests, in their order; one that no endpoint answers gets a response that says why.

        Raises:
            BrokenOff: if no endpoint is left, with what was answered until then.
        """
        if self._runner is None:
            raise RuntimeError("the generator is closed")
        call = _Call(requests, self._members)
        if requests:
            self._runner.run(self._all(call))
        return [call.responses[request.request_id] for request in requests]

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        if self._runner is not None:
            self._runner.run(self._client.aclose())
            self._runner.close()
            self._runner = None

    async def _all(self, call: "_Call") -> None:
        living = [member for member in self._members if member.alive]
        count = min(self._resources.concurrency, len(call.requests))
        lanes = [asyncio.create_task(self._lane(member, call)) for member in living for _ in range(count)]
        finished = asyncio.create_task(call.finished.wait())
        try:
            pending: set[asyncio.Task[Any]] = {finished, *lanes}
            while not finished.done() and len(pending) > 1:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # raises what should never happen
        except Exception as error:
            raise BrokenOff(
                f"asking for {self.model} ended by an error of the program ({type(error).__name__}); what was answered "
                "is kept",
                list(call.responses.values()),
            ) from error
        finally:
            for task in (finished, *lanes):
                task.cancel()
            await asyncio.gather(finished, *lanes, return_exceptions=True)
        if not call.finished.is_set():
            causes = "; ".join(f"{member.endpoint.url}: {member.fault}" for member in self._members)
            raise BrokenOff(
                f"no endpoint is left that answers for {self.model}. {causes}. Start them again, or name others in "
                "resources.endpoints; what was answered is kept",
                list(call.responses.values()),
            )

    async def _lane(self, member: "_Member", call: "_Call") -> None:
        """Take one request after the other to an endpoint, until there is none or the endpoint leaves the pool."""
        while member.alive:
            await member.rest()
            item = await call.take(member)
            if member.resting or not member.alive:
                call.put(item)  # for another endpoint
                continue
            request, sent = item.request, time.monotonic()
            try:
                body = await self._body(request)
                answer = await member.endpoint.ask(body, self._extras(request))
            except Unfit as error:
                call.settle(Response(request.request_id, f"{member.endpoint.url}: {error}", "error", 0, 0))
            except Unusable as error:
                member.leave(str(error))
                call.put(item)
            except NotNow as error:
                member.fail(str(error), sent, error.wait)
                call.put(item)
            except Failed as error:
                await self._after_failure(member, call, item, str(error), sent)
            else:
                member.succeed()
                for other in item.failures.keys() - {member}:
                    other.outdone()
                    call.hand_over(other)
                chosen = choice_probabilities(answer.steps, request.choices) if request.choices else None
                whole = (answer.text, answer.finish_reason, answer.tokens_in, answer.tokens_out, chosen)
                call.settle(Response(request.request_id, *whole))
            call.hand_over(member)

    async def _after_failure(self, member: "_Member", call: "_Call", item: "_Item", fault: str, sent: float) -> None:
        """Charge a failure to the request if the server is there, else to the endpoint."""
        if not await member.endpoint.is_there():
            member.fail(fault, sent, None)
            call.put(item)
            return
        member.fell_short(fault)
        item.failures[member] += 1
        failures = item.failures.total()
        if failures < _ATTEMPTS:
            asyncio.get_running_loop().call_later(_pause(failures), call.put, item)
        else:
            text = f"no answer after {_ATTEMPTS} attempts; the last, at {member.endpoint.url}: {fault}"
            call.settle(Response(item.request.request_id, text, "error", 0, 0))

    async def _body(self, request: Request) -> dict[str, Any]:
        images = [await asyncio.to_thread(data_url, image) for image in request.images]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        content.append({"type": "text", "text": request.prompt})
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._sampling.max_tokens,
        }

    def _extras(self, request: Request) -> dict[str, dict[str, Any]]:
        extras: dict[str, dict[str, Any]] = {
            "seed": {"seed": request.seed},
            "temperature": {"temperature": request.temperature, "top_p": self._sampling.top_p},
        }
        if self._engine.structured and request.answer:
            fields = list(request.answer)
            texts = {field: {"type": "string"} for field in fields}
            schema = {"type": "object", "properties": texts, "required": fields, "additionalProperties": False}
            form = {"name": "answer", "strict": True, "schema": schema}
            extras["JSON schema"] = {"response_format": {"type": "json_schema", "json_schema": form}}
        if request.choices:
            extras["question for probabilities"] = {"logprobs": True, "top_logprobs": LIKELIEST}
        return extras


open_generator = OpenAiGenerator


def data_url(image: Image.Image) -> str:
    """An image as PNG in a URL, so that the model sees the very pixels that an engine of this process would."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter."""
    return min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 20), _LONGEST_PAUSE) * random.uniform(0.75, 1.25)


@dataclass(eq=False)
class _Item:
    """A request on its way, and how often it failed at which endpoints, where these were there all the same."""

    request: Request
    failures: Counter["_Member"] = field(default_factory=Counter)


class _Call:
    """The requests of one call of `generate`.

    A request that failed is for an endpoint at which it failed least: one that is broken answers quickly, and would
    take every further attempt too.
    """

    def __init__(self, requests: Sequence[Request], members: Sequence["_Member"]) -> None:
        self.requests = {request.request_id: request for request in requests}
        self.responses: dict[str, Response] = {}
        self.finished = asyncio.Event()
        self._fresh = deque(_Item(request) for request in self.requests.values())  # for any
        self._failed: dict[_Member, deque[_Item]] = {member: deque() for member in members}
        self._turns = {member: asyncio.Lock() for member in members}
        self._changed = asyncio.Event()

    def settle(self, response: Response) -> None:
        self.responses[response.request_id] = response
        if len(self.responses) == len(self.requests):
            self.finished.set()

    def put(self, item: _Item) -> None:
        alive = [member for member in self._failed if member.alive]
        if item.failures and alive:
            best = min(alive, key=lambda one: (item.failures[one], one.resting, len(self._failed[one])))
            self._failed[best].append(item)
        else:
            self._fresh.append(item)
        self._changed.set()

    def hand_over(self, member: "_Member") -> None:
        """Give to others what waits for an endpoint, if it has left."""
        while not member.alive and self._failed[member]:
            self.put(self._failed[member].popleft())

    async def take(self, member: "_Member") -> _Item:
        """The next request for this endpoint, as soon as there is one."""
        async with self._turns[member]:  # so that what is put wakes one lane of each
            while not (waiting := self._failed[member] or self._fresh):
                self._changed.clear()
                await self._changed.wait()
            return waiting.popleft()


class _Member:
    """An endpoint's place in the pool.

    Attributes:
        alive: whether it still has one.
        fault: why not, in words.
    """

    def __init__(self, endpoint: Endpoint, patience: float) -> None:
        self.endpoint, self.alive, self.fault = endpoint, True, ""
        self._patience = patience
        self._rounds = 0
        self._fallen_short = 0  # times since its last answer, with `_shortfall` the last time
        self._shortfall = ""
        self._failing_since = self._last_failure = self._rest_until = 0.0

    @property
    def resting(self) -> bool:
        return time.monotonic() < self._rest_until

    async def rest(self) -> None:
        while self.alive and (left := self._rest_until - time.monotonic()) > 0:
            await asyncio.sleep(left * random.uniform(1.0, 1.1))  # not all lanes at the same instant

    def succeed(self) -> None:
        if self._rounds:
            log.warning("%s answers again", self.endpoint.url)
        self._rounds = self._fallen_short = 0

    def fell_short(self, fault: str) -> None:
        """It failed at a request, and is there."""
        self._fallen_short, self._shortfall = self._fallen_short + 1, fault

    def outdone(self) -> None:
        """Another endpoint answered what this one failed at; if it fails at all that it is asked, it is at fault."""
        if self._fallen_short >= _ROUNDS and not self.resting:
            self.fail(self._shortfall, time.monotonic(), None)

    def fail(self, fault: str, sent: float, wait: float | None) -> None:
        """Count a failure of the endpoint and let it rest; lanes that fail together count once.

        Args:
            fault: in words.
            sent: when the failed request was, on the monotonic clock.
            wait: seconds that the endpoint asked for, if it did.
        """
        now = time.monotonic()
        if wait is not None:
            self._rest_until = max(self._rest_until, now + wait)
        if self._rounds and sent < self._last_failure:
            return
        if not self._rounds:
            self._failing_since = sent
            log.warning("%s: %s; trying again", self.endpoint.url, fault)
        self._rounds += 1
        self._last_failure = now
        if self._rounds >= _ROUNDS and now - self._failing_since >= self._patience:
            self.leave(f"failed {self._rounds} times in {now - self._failing_since:.1f} s, at last: {fault}")
        elif wait is None:
            self._rest_until = now + _pause(self._rounds)

    def leave(self, fault: str) -> None:
        if self.alive:
            self.alive, self.fault = False, fault
            log.warning("%s is left out from now on: %s", self.endpoint.url, fault)
