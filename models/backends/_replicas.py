"""Several engines side by side, each in a process of its own with its own devices; a call is divided among them."""

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from data.config import Resources
from data.lifeline import end_with
from models.backends import BrokenOff, Engine, Overlapping, Request, Response, Sampling
from models.checkpoints import Located

_open: list[Overlapping] = []  # of a worker process: its engine


class Replicas:
    """Text generators of the same model, behind the interface of one.

    Attributes:
        model, revision: of each of them.
    """

    def __init__(
        self,
        opener: Callable[..., Overlapping],
        located: Located,
        sampling: Sampling,
        engine: Engine,
        resources: Resources,
        images_per_prompt: int,
        devices: Sequence[str | None],
    ) -> None:
        """Start one process per entry of `devices`, all at once.

        Args:
            opener: a function of a module, for another process to import; starts one engine.
            located, sampling, engine, resources, images_per_prompt: handed to it.
            devices: of each process, as CUDA_VISIBLE_DEVICES has them; None leaves that variable alone.

        Raises:
            Exception: whatever the opener raises in one of the processes.
        """
        context = multiprocessing.get_context("spawn")  # a fork of a process with CUDA or threads in it may hang
        self._pools = [ProcessPoolExecutor(1, mp_context=context) for _ in devices]
        self._begun: list[Future[None]] = []
        try:
            opened = [
                pool.submit(
                    _start, os.getpid(), opener, located, sampling, engine, resources, images_per_prompt, visible
                )
                for pool, visible in zip(self._pools, devices, strict=True)
            ]
            names = [future.result() for future in opened]
        except BaseException:
            self.close()
            raise
        self.model, self.revision = names[0]

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests, in their order; see `finish`."""
        self.begin(requests)
        responses = {response.request_id: response for response in self.finish(len(requests))}
        return [responses[request.request_id] for request in requests]

    def begin(self, requests: Sequence[Request]) -> None:
        """Divide requests among the engines, a stretch for each: neighbours often share a prompt or an image."""
        ends = [len(requests) * place // len(self._pools) for place in range(len(self._pools) + 1)]
        for place, pool in enumerate(self._pools):
            self._begun.append(_submitted(pool, _begin, list(requests[ends[place] : ends[place + 1]])))

    def finish(self, least: int) -> list[Response]:
        """Let each engine work until it has done its share of so many requests, or all of its own.

        Raises:
            BrokenOff: if a process is gone or its engine raised, with what the others answered.
        """
        share = math.ceil(least / len(self._pools))
        finishing = [_submitted(pool, _finish, share) for pool in self._pools]
        begun, self._begun = self._begun, []
        answered: list[Response] = []
        faults: dict[int, BaseException] = {}  # by the engine's number: its first
        for place, future in enumerate([*begun, *finishing]):
            fault = future.exception()
            if fault is not None:
                faults.setdefault(place % len(self._pools) + 1, fault)
            elif place >= len(begun):
                answered += future.result() or []
        if faults:
            told = ", ".join(
                f"engine {number} of {len(self._pools)} {_told(fault)}" for number, fault in faults.items()
            )
            raise BrokenOff(f"{told}; what the others answered is kept: run the same command again", answered)
        return answered

    def close(self) -> None:
        """Stop the engines and their processes; a second call does nothing."""
        closing: list[Future[None]] = []
        for pool in self._pools:
            try:
                closing.append(pool.submit(_close))
            except RuntimeError:  # it died, or was shut down before
                continue
        for future in closing:
            future.exception()
        for pool in self._pools:
            pool.shutdown()


def _start(parent: int, opener: Callable[..., Overlapping], *arguments: Any) -> tuple[str, str]:
    """Open the engine of this process, which ends as soon as its parent does."""
    if not end_with(parent):
        raise RuntimeError("the process that wanted this engine is gone")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the terminal; the parent decides
    *handed, visible = arguments
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    generator = opener(*handed)
    _open.append(generator)
    return generator.model, generator.revision


def _begin(requests: list[Request]) -> None:
    _open[0].begin(requests)


def _finish(least: int) -> list[Response]:
    return _open[0].finish(least)


def _told(fault: BaseException) -> str:
    if isinstance(fault, BrokenProcessPool):
        return "died (killed, or out of memory?)"
    return f"failed ({type(fault).__name__}: {fault})"


def _submitted(pool: ProcessPoolExecutor, work: Callable[[Any], Any], argument: Any) -> Future[Any]:
    """What the process will answer; also of one that is gone."""
    try:
        return pool.submit(work, argument)
    except BrokenProcessPool as error:
        gone: Future[Any] = Future()
        gone.set_exception(error)
        return gone


def _close() -> None:
    while _open:
        _open.pop().close()
