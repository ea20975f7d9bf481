"""Which errors may pass by themselves, so that a stage is tried again, and which cannot."""

import errno
from collections.abc import Iterator

_NUMBERS = {
    errno.EAGAIN, errno.EINTR, errno.EIO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESTALE,
}  # fmt: skip
# By name, so that no library is imported to ask: engines that died (vLLM's own word, and ours for a pool of endpoints
# without a living one), and connections that broke in httpx, openai, requests, urllib3 and botocore.
_NAMES = {
    "BrokenOff", "EngineDeadError", "TransportError", "APIConnectionError", "RequestException", "HTTPError",
    "HTTPClientError",
}  # fmt: skip


def may_pass(error: BaseException) -> bool:
    """Whether trying again later makes sense: the network, an engine that died, a disk that stuttered.

    A mistake in settings or data stays one, a full disk needs a person, and memory that did not suffice will not.
    """
    return any(_passing(one) for one in _causes(error))


def _passing(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)
    if isinstance(status, int):  # the server answered: what it says of the request will not change, but its own faults
        return status in (408, 429) or status >= 500
    return any(kind.__name__ in _NAMES for kind in type(error).__mro__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
