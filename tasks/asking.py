"""Asking a model about images: from the ledger what was asked before, from the engine the rest, a chunk at a time."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from data.config import Resources
from data.images import BadImage
from models.backends import BrokenOff, Engine, Opener, Overlapping, Request, Response, Sampling, TextGenerator
from models.checkpoints import Located
from prompts import Prompt
from tasks.ledger import Entry, Ledger
from tasks.replies import Rejected, read_reply, shown_examples
from tasks.requests import Attempt, Outcome, Picture, Question, Terms
from tasks.shards import spread

# So many unreadable images and no readable one in a part: the fault is not in the images.
_GONE = 8
# So many refusals and no answer: the fault may not be in the requests. Unless they are less than this share of what the
# ledger has answers to: then they are what is left because it cannot be answered.
_MANY, _FEW = 8, 0.05
_PARTS = 4  # of a chunk, for an engine that takes more while it is at work
_DECODED_AT_ONCE = 16  # images, by a thread
# Seconds. A thread holds the interpreter for much of the decoding of images as quick as this. An engine in this process
# wants it between any two of its operations, and lost more by that than by decoding and computing in turn, where images
# took 0.1 ms (docs/generate.md).
_QUICK = 0.0005


@dataclass
class Figures:
    """What asking came to, for the report.

    Attributes:
        asked: requests that the engine answered in this run; `reused` came from the ledger.
        retries: attempts after the first.
        tokens_in, tokens_out: of all answers read, whenever they were asked for.
        engine_seconds: time of answering, `start_seconds` of starting, in this run.
        rejections: answers not used, by reason; more than one may be of the same question.
    """

    asked: int = 0
    reused: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    engine_seconds: float = 0.0
    start_seconds: float = 0.0
    rejections: Counter[str] = field(default_factory=Counter)


class Asker:
    """A model, its ledger and, once something has to be asked, its engine. A context manager: leaving stops the engine.

    Attributes:
        figures: so far.
    """

    def __init__(
        self,
        terms: Terms,
        opener: Opener,
        resources: Resources,
        *,
        ledger: Path,
        retries: int,
        images_per_prompt: int,
        record: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            terms: whom to ask and how.
            opener: starts the engine when the first request is not in the ledger.
            resources: the engine has requests that show `chunk` images, or as many requests that show none; `workers`
                threads decode the images of the next.
            ledger: root folder of the ledgers.
            retries: attempts after the first, each with another seed.
            images_per_prompt: the most that any prompt will show.
            record: called with rows of `data.schemas.GENERATIONS` as answers are read; a row may come twice.
        """
        self.figures = Figures()
        self.terms, self.resources, self.ledger, self.retries, self.record = terms, resources, ledger, retries, record
        self._opener, self._images_per_prompt = opener, images_per_prompt
        self._generator: TextGenerator | None = None
        self._begun: list[Request] = []  # for an engine that does not overlap
        self.refused: dict[str, Entry] = {}  # by request, in workers, because the ledger does not keep these
        self._is_part = False  # of what workers are asked
        self._answered = False
        self._refused = 0  # requests in a row
        self._last: Entry | None = None  # of these

    def ask(self, prompt: Prompt, questions: Iterable[Question], choices: tuple[str, ...] = ()) -> Iterator[Outcome]:
        """Answer all questions, in no particular order. They are drawn as they are needed.

        Args:
            prompt: of all the questions.
            questions: as many as one likes.
            choices: lower-case words that the answers decide between, where their probabilities are wanted.

        Raises:
            RuntimeError: if none of a chunk's images can be read any more.
        """
        with ThreadPoolExecutor(self.resources.workers, thread_name_prefix="decode") as pool:
            if self.resources.spread == "here":
                yield from _Session(self, prompt, questions, pool, choices).outcomes()
                return
            for shard in self._answered_elsewhere(prompt, iter(questions), choices):
                yield from _Session(self, prompt, shard, pool, choices).outcomes()

    def _answered_elsewhere(
        self, prompt: Prompt, questions: Iterator[Question], choices: tuple[str, ...]
    ) -> Iterator[list[Question]]:
        """Shards of questions whose answers workers have put into the ledger, where they are found next."""
        work = partial(_ask_shard, self._opener, self.resources, self.ledger, self.retries, self._images_per_prompt)
        shards = iter(lambda: list(islice(questions, self.resources.shard)), [])
        jobs = ((self.terms.about(shard), prompt, shard, choices) for shard in shards)
        try:
            for (_, _, shard, _), (figures, refused) in spread("generate shard", work, jobs, self.resources):
                self.refused = refused
                self.figures.asked += figures.asked
                # When they are read here, they have just been paid for.
                self.figures.reused -= figures.asked - len(refused)
                self.figures.engine_seconds += figures.engine_seconds
                self.figures.start_seconds += figures.start_seconds
                yield shard
        finally:
            while _engines:  # of threads; those of other processes end with them
                _engines.pop().close()

    @property
    def overlaps(self) -> bool | None:
        """Whether the engine takes more while it is at work; None before it is started."""
        return None if self._generator is None else isinstance(self._generator, Overlapping)

    def begin(self, requests: list[Request]) -> None:
        """Hand requests to the engine, starting it if necessary."""
        started = time.perf_counter()
        if self._generator is None:
            terms = self.terms
            self._generator = self._opener(
                terms.located, terms.sampling, terms.engine, self.resources, self._images_per_prompt
            )
            self.figures.start_seconds += time.perf_counter() - started
            started = time.perf_counter()
        if isinstance(self._generator, Overlapping):
            self._generator.begin(requests)
        else:
            self._begun = requests
        self.figures.engine_seconds += time.perf_counter() - started

    def finish(self, least: int) -> list[Response]:
        """Responses to what was begun, as many at least, or all."""
        assert self._generator is not None
        started = time.perf_counter()
        if isinstance(self._generator, Overlapping):
            responses = self._generator.finish(least)
        else:
            responses = self._generator.generate(self._begun)
            if [response.request_id for response in responses] != [request.request_id for request in self._begun]:
                raise RuntimeError(f"{len(responses)} responses that do not match the {len(self._begun)} requests")
            self._begun = []
        self.figures.engine_seconds += time.perf_counter() - started
        self.figures.asked += len(responses)
        return responses

    def check(self, entries: Iterable[Entry], idle: bool) -> None:
        """Stop where the engine, or a setting, is at fault rather than the requests.

        Args:
            entries: the last, in the order in which they were answered or refused.
            idle: whether the engine has nothing left to do.

        Raises:
            RuntimeError: if nothing was answered of the first requests, or of a whole chunk in a row.
        """
        for entry in entries:
            if entry.finish_reason == "error":
                self._last, self._refused = entry, self._refused + 1
                if self._is_part:
                    self.refused[entry.request_id] = entry
            else:
                self._answered, self._refused = True, 0
        many = self._refused >= max(_MANY, self.figures.reused * _FEW)
        if many and (self._refused >= self.resources.chunk or (idle and not self._answered)):
            self._stop()

    def check_all(self) -> None:
        """The same where no more questions come: a few that are refused are too many if nothing was ever answered."""
        if self._refused and not (self._answered or self.figures.reused or self._is_part):
            self._stop()

    def _stop(self) -> None:
        assert self._last is not None
        told = f"{self.terms.model} answered none of {self._refused:,} requests in a row, the last"
        raise RuntimeError(f"{told}: {self._last.raw_response}")

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._generator is not None:
            self._generator.close()
            self._generator = None


def _ask_shard(
    opener: Opener,
    resources: Resources,
    ledger: Path,
    retries: int,
    images_per_prompt: int,
    job: tuple[Terms, Prompt, list[Question], tuple[str, ...]],
) -> tuple[Figures, dict[str, Entry]]:
    """Put the answers to a shard of questions into the ledger, with an engine that stays for the worker's next.

    Returns:
        Figures, and what the engine refused, by request.
    """
    terms, prompt, questions, choices = job
    alone = resources.model_copy(update={"spread": "here"})
    asker = Asker(
        terms, partial(_kept_engine, opener), alone,
        ledger=ledger, retries=retries, images_per_prompt=images_per_prompt, record=lambda rows: None,
    )  # fmt: skip
    asker._is_part = True
    for _ in asker.ask(prompt, questions, choices):
        pass
    return asker.figures, asker.refused


_kept = threading.local()
_engines: list[TextGenerator] = []


def _kept_engine(
    opener: Opener, located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
) -> TextGenerator:
    """The engine of this worker, which ends with it; another one's place is taken."""
    wanted = (opener, located, sampling, engine, resources, images_per_prompt)
    open_still = getattr(_kept, "generator", None) in _engines
    if not open_still or _kept.wanted != wanted:
        if open_still:
            _kept.generator.close()
            _engines.remove(_kept.generator)
        _kept.generator, _kept.wanted = opener(located, sampling, engine, resources, images_per_prompt), wanted
        _engines.append(_kept.generator)
    generator: TextGenerator = _kept.generator
    return generator


class _Session:
    """The questions of one prompt on their way through ledger, decoding, engine and parser.

    At any time one chunk is with the engine and the next is being decoded. An engine that takes more while it is at
    work gets the chunk in parts: when as many requests are done as the next part has, they are stored and it is handed
    over, so that the engine's batch stays full. A question whose answer is rejected goes into the next part.
    """

    def __init__(
        self,
        asker: Asker,
        prompt: Prompt,
        questions: Iterable[Question],
        pool: ThreadPoolExecutor,
        choices: tuple[str, ...],
    ) -> None:
        self._asker, self._terms, self._prompt, self._pool = asker, asker.terms, prompt, pool
        self._choices = choices
        # Counted in images: a request with two is as much work as two with one, and takes the memory of two.
        self._chunk = max(1, asker.resources.chunk // max(1, prompt.images))
        self._fresh = iter(questions)
        self._again: deque[Attempt] = deque()
        self._begun: dict[str, Attempt] = {}  # with the engine, by request
        self._waiting: dict[str, list[Attempt]] = {}  # by request: two questions may come to the same one
        self._done: list[Outcome] = []
        self._rows: list[dict[str, Any]] = []
        self._quick: bool | None = None  # whether images take so little time that threads do not pay; None: not known
        self._examples = shown_examples(prompt.text, prompt.answer)
        terms = asker.terms
        self._ledger = Ledger(asker.ledger, terms.model, terms.located.revision, prompt.name, prompt.digest)

    def outcomes(self) -> Iterator[Outcome]:
        part: list[Attempt] = []
        loading: list[_Loading] = []
        while True:
            parts = 1 if self._asker.overlaps is False else min(_PARTS, self._chunk)
            size = self._chunk // parts
            following: list[Attempt] = []
            while len(following) < size and self._draw_into(following, size):
                yield from self._flush()
            self._begin(part, loading)
            # Not before: while the engine takes prompts in, it and the threads that decode hold each other up.
            following_loading = self._load(following)
            least = min(size, len(self._begun))
            if not self._asker.overlaps:  # which is not known before it has something to do
                least = len(self._begun)
            elif following:
                least = len(self._begun) + len(following) - self._chunk
            if finished := least > 0:
                self._finish(least)
            yield from self._flush()
            if not (finished or self._begun or following):
                self._asker.check_all()
                return
            part, loading = following, following_loading

    def _flush(self) -> Iterator[Outcome]:
        self._asker.record(self._rows)
        done, self._done, self._rows = self._done, [], []
        yield from done

    def _draw_into(self, chunk: list[Attempt], size: int) -> bool:
        """Draw questions, settle what the ledger knows, and add the rest to the chunk; False if there was none left."""
        room = size - len(chunk)
        attempts = [self._again.popleft() for _ in range(min(room, len(self._again)))]
        attempts += [self._attempt(question, 0) for question in islice(self._fresh, room - len(attempts))]
        stored = self._ledger.find(attempt.request_id for attempt in attempts)
        for attempt in attempts:
            if attempt.request_id in stored:
                self._asker.figures.reused += 1
                self._settle(attempt, stored[attempt.request_id])
            elif attempt.request_id in self._asker.refused:
                self._settle(attempt, self._asker.refused[attempt.request_id])
            elif attempt.request_id in self._waiting:
                self._waiting[attempt.request_id].append(attempt)
            else:
                self._waiting[attempt.request_id] = [attempt]
                chunk.append(attempt)
        return bool(attempts)

    def _attempt(self, question: Question, number: int) -> Attempt:
        return Attempt.of(self._terms, self._prompt, question, number, self._choices)

    def _load(self, part: list[Attempt]) -> list["_Loading"]:
        """Set the threads to the part's images, each once; quick ones are decoded when they are asked for."""
        wanted = list(dict.fromkeys(image_id for attempt in part for image_id in attempt.question.image_ids))
        pictures = self._terms.pictures
        loading: list[_Loading] = []
        if self._quick is None and wanted:  # nothing is with the engine, beside which they would take longer
            first = self._pool.submit(_decoded, pictures, wanted[:_DECODED_AT_ONCE])
            self._quick = first.result().quick
            loading, wanted = [first.result], wanted[_DECODED_AT_ONCE:]
        if self._quick and self._asker.overlaps is not False:
            # By a thread all the same: what it takes of memory for them is kept apart from what stays longer.
            return [*loading, lambda: self._pool.submit(_decoded, pictures, wanted).result()]
        some = (wanted[start : start + _DECODED_AT_ONCE] for start in range(0, len(wanted), _DECODED_AT_ONCE))
        return [*loading, *(self._pool.submit(_decoded, pictures, portion).result for portion in some)]

    def _begin(self, part: list[Attempt], loading: list["_Loading"]) -> None:
        """Hand a part to the engine, without the questions whose images cannot be read, which are settled."""
        loaded = _loaded(loading)
        images, faults = loaded.images, loaded.faults
        if self._quick and images:
            self._quick = loaded.quick
        ready: dict[str, Attempt] = {}
        for attempt in part:
            bad = next((faults[image_id] for image_id in attempt.question.image_ids if image_id in faults), None)
            if bad is None:
                ready[attempt.request_id] = attempt
            else:
                self._give_up(attempt.request_id, bad)
        if ready:
            self._asker.begin([attempt.request(images) for attempt in ready.values()])
            self._begun |= ready

    def _finish(self, least: int) -> None:
        """Wait for so many answers, store and settle them."""
        try:
            responses = self._asker.finish(least)
        except BrokenOff as error:
            self._keep(self._entries(error.responses))
            raise
        if not responses:
            raise RuntimeError(f"the engine has no response to any of the last {len(self._begun)} requests")
        entries = self._entries(responses)
        stored = self._keep(entries)
        for entry in entries:
            del self._begun[entry.request_id]
            for attempt in self._waiting.pop(entry.request_id):
                self._settle(attempt, stored.get(entry.request_id, entry))
        self._asker.check(entries, not self._begun)

    def _entries(self, responses: Iterable[Response]) -> list[Entry]:
        """What the ledger gets; an engine that was left while it was at work may answer what nobody asks any more."""
        return [self._begun[one.request_id].entry(one) for one in responses if one.request_id in self._begun]

    def _keep(self, entries: list[Entry]) -> dict[str, Entry]:
        """Store answers. What the engine refused is none: another day, another engine may take it."""
        return self._ledger.append([entry for entry in entries if entry.finish_reason != "error"])

    def _give_up(self, request_id: str, bad: BadImage) -> None:
        rejected = Rejected(f"image_{bad.reason}", retry=False)
        for attempt in self._waiting.pop(request_id):
            self._asker.figures.rejections[rejected.reason] += 1
            self._done.append(Outcome(attempt.question.row_id, rejected, None, str(bad)))

    def _settle(self, attempt: Attempt, entry: Entry) -> None:
        """Read an answer: an outcome, or another attempt."""
        texts = read_reply(entry.raw_response, entry.finish_reason, self._prompt.answer, self._examples)
        figures = self._asker.figures
        figures.tokens_in += entry.tokens_in
        figures.tokens_out += entry.tokens_out
        if isinstance(texts, Rejected):
            figures.rejections[texts.reason] += 1
            self._rows.append(attempt.row(entry, texts.reason))
            if texts.retry and attempt.number < self._asker.retries:
                figures.retries += 1
                self._again.append(self._attempt(attempt.question, attempt.number + 1))
                return
        else:
            self._rows.append(attempt.row(entry, None))
        raw = entry.raw_response if isinstance(texts, Rejected) else ""
        self._done.append(Outcome(attempt.question.row_id, texts, entry.request_id, raw, entry.probabilities))


class _Images(NamedTuple):
    """Images by id; those that cannot be read as what is wrong with them; the seconds that all of them took."""

    images: dict[str, Image.Image]
    faults: dict[str, BadImage]
    seconds: float

    @property
    def quick(self) -> bool:
        return self.seconds < len(self.images) * _QUICK


_Loading = Callable[[], _Images]
"""Waits for images that a thread decodes, or decodes them."""


def _decoded(pictures: Mapping[str, Picture], image_ids: list[str]) -> _Images:
    images, faults = dict[str, Image.Image](), dict[str, BadImage]()
    started = time.perf_counter()
    for image_id in image_ids:
        try:
            images[image_id] = pictures[image_id].load()
        except BadImage as error:
            faults[image_id] = error
    return _Images(images, faults, time.perf_counter() - started)


def _loaded(loading: list[_Loading]) -> _Images:
    """The images of a part, as soon as they are there."""
    images, faults, seconds = dict[str, Image.Image](), dict[str, BadImage](), 0.0
    for load in loading:
        some = load()
        images |= some.images
        faults |= some.faults
        seconds += some.seconds
    if len(faults) >= _GONE and not images:
        image_id, fault = next(iter(faults.items()))
        raise RuntimeError(
            f"none of {len(faults)} images can be read any more, for example {image_id!r} ({fault}); is the "
            "folder they were in still there?"
        )
    return _Images(images, faults, seconds)
