"""Several engines side by side, each in a process of its own with its own devices; a call is divided among them."""

import multiprocessing
import os
import signal
from collections import deque
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
        self._begun: deque[list[Future[Any]]] = deque()
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
        return self.finish([request.request_id for request in requests])

    def begin(self, requests: Sequence[Request]) -> None:
        """Divide requests among the engines."""
        self._begun.append(self._submitted(_begin, requests))

    def finish(self, request_ids: Sequence[str]) -> list[Response]:
        """Responses to the requests of the earliest call of `begin` that has none yet, in their order.

        Raises:
            BrokenOff: if a process is gone, with what the others answered.
        """
        beginning, finishing = self._begun.popleft(), self._submitted(_finish, request_ids)
        answered: list[Response] = []
        gone = []
        for place, (begun, finished) in enumerate(zip(beginning, finishing, strict=True)):
            try:
                begun.result()
                answered += finished.result()
            except BrokenProcessPool:
                gone.append(place + 1)
        if gone:
            raise BrokenOff(
                f"engine {', '.join(map(str, gone))} of {len(self._pools)} died (killed, or out of memory?); what the"
                " others answered is kept: run the same command again",
                answered,
            )
        return answered

    def _submitted(self, work: Callable[[list[Any]], Any], items: Sequence[Any]) -> list[Future[Any]]:
        """A stretch of the items for each engine, the same for as many: neighbours often share a prompt or an image."""
        count = len(self._pools)
        ends = [len(items) * place // count for place in range(count + 1)]
        futures = []
        for place, pool in enumerate(self._pools):
            try:
                futures.append(pool.submit(work, list(items[ends[place] : ends[place + 1]])))
            except BrokenProcessPool as error:
                futures.append(Future())
                futures[-1].set_exception(error)
        return futures

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


def _finish(request_ids: list[str]) -> list[Response]:
    return _open[0].finish(request_ids)


def _close() -> None:
    while _open:
        _open.pop().close()
