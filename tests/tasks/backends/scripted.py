"""A backend that answers by the digest of each request, good and bad, and writes down what it was asked.

Environment: SCRIPTED_LOG, a file that gets one request id per line, synced, before its chunk is answered;
SCRIPTED_SECONDS per request; SCRIPTED_BAD, the share of bad answers in 256ths; SCRIPTED_WORD in every good answer;
SCRIPTED_CHOICES, to answer with the likelier of two choices and tell their probabilities.
"""

import json
import os
import time
from collections.abc import Sequence

from data.config import Resources
from models.backends import Engine, Request, Response, Sampling
from models.checkpoints import Located

BAD = [
    ("", "stop"),
    ("I'm sorry, but I cannot describe this image.", "stop"),
    ('{"caption": "a long', "length"),
    ("a plain text", "stop"),
    ('{"other": "field"}', "stop"),
    ('{"caption": "red red red red red red", "modification": "red red red red red red"}', "stop"),
]


class Scripted:
    """See the module."""

    opened = 0

    def __init__(self, located: Located) -> None:
        type(self).opened += 1
        self.model, self.revision = "scripted", located.revision
        self.closed = False

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        self.log(requests)
        self.work(len(requests))
        return [self.answer(request) for request in requests]

    def log(self, requests: Sequence[Request]) -> None:
        if log := os.environ.get("SCRIPTED_LOG"):
            with open(log, "a", encoding="ascii") as stream:
                stream.writelines(f"{request.request_id}\n" for request in requests)
                stream.flush()
                os.fsync(stream.fileno())

    def work(self, requests: int) -> None:
        time.sleep(requests * float(os.environ.get("SCRIPTED_SECONDS", "0")))

    def close(self) -> None:
        self.closed = True

    def answer(self, request: Request) -> Response:
        assert all(image.mode == "RGB" for image in request.images)
        draw = int(request.request_id[8:10], 16)
        shares = None
        if os.environ.get("SCRIPTED_CHOICES") and len(request.choices) == 2:
            shares = (draw / 255, 1 - draw / 255)
        if draw < int(os.environ.get("SCRIPTED_BAD", "0")):
            text, reason = BAD[draw % len(BAD)]
        else:
            word = os.environ.get("SCRIPTED_WORD", "thing")
            said = f"a {word} {request.request_id[:6]}" if shares is None else request.choices[shares[0] < shares[1]]
            text, reason = json.dumps(dict.fromkeys(request.answer, said)), "stop"
        return Response(request.request_id, text, reason, 10 * (1 + len(request.images)), len(text.split()), shares)


def open_generator(
    located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
) -> Scripted:
    return Scripted(located)
