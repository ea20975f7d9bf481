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
        self.begun: list[Response] = []
        self.most = 0

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise NotImplementedError("it overlaps")

    def begin(self, requests: Sequence[Request]) -> None:
        self.log(requests)
        self.begun += [self.answer(request) for request in requests]
        self.most = max(self.most, len(self.begun))

    def finish(self, least: int) -> list[Response]:
        """The latest first, and one more than asked for: neither number nor order is promised."""
        count = min(least + 1, len(self.begun))
        self.work(count)
        done, self.begun = self.begun[-count:], self.begun[:-count]
        return done[::-1]


def open_generator(
    located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
) -> Overlapping:
    return Overlapping(located)
