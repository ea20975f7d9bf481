"""The scripted backend as an engine that takes more requests while it is at work."""

from collections.abc import Sequence

from data.config import Resources
from models.backends import Engine, Request, Response, Sampling
from models.checkpoints import Located
from tests.tasks.backends.scripted import Scripted


class Overlapping(Scripted):
    """Writes down what it was asked when it takes it, and is busy when it is waited for.

    Attributes:
        most: requests that it had at a time.
    """

    def __init__(self, located: Located) -> None:
        super().__init__(located)
        self._begun: dict[str, Response] = {}
        self.most = 0

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        self.begin(requests)
        return self.finish([request.request_id for request in requests])

    def begin(self, requests: Sequence[Request]) -> None:
        self.log(requests)
        self._begun |= {request.request_id: self.answer(request) for request in requests}
        self.most = max(self.most, len(self._begun))

    def finish(self, request_ids: Sequence[str]) -> list[Response]:
        self.work(len(request_ids))
        return [self._begun.pop(request_id) for request_id in request_ids]


def open_generator(
    located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
) -> Overlapping:
    return Overlapping(located)
