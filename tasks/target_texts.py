"""Target texts: what a model says each query of a benchmark is looking for, from its reference and its modification.

Joint inference (MVFT-JI, arXiv 2505.19707) adds the similarity of this text to that of the composed query.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from pydantic import Field, NonNegativeInt, field_validator

import prompts
from data.benchmarks import Benchmark, Query
from data.config import Resources, StageConfig
from data.keys import canonical
from data.progress import progress
from data.schemas import GENERATIONS
from models.backends import Engine, Sampling, check_resources, load_backend, locate_model
from prompts import Prompt
from tasks.asking import Asker
from tasks.replies import Rejected
from tasks.requests import Picture, Question, Terms
from tasks.spill import SortedTable
from tasks.store import home

ANSWER = "target_text"
BLANK = "empty_modification"
# Queries beyond this number are counted, not listed, in a message.
MOST_TOLD = 20


class TargetTextConfig(StageConfig):
    """Who writes the target texts, what it is asked, and how its answers are drawn."""

    model: str = Field(description="a folder of models/checkpoints, any folder, or a Hugging Face id")
    backend: str = Field("vllm", description="a file of models/backends")
    prompt: str = Field("mvft_ji/target_text", description="a file of prompts/, asked once per query")
    retries: NonNegativeInt = Field(2, description="further attempts at an answer that cannot be used")
    sampling: Sampling = Sampling()
    engine: Engine = Engine()

    @field_validator("prompt")
    @classmethod
    def _fits(cls, value: str) -> str:
        prompt = prompts.load(value)
        if prompt.images != 1 or ANSWER not in prompt.answer or prompt.placeholders != {"modification"}:
            raise ValueError(
                f"prompt {value!r} shows {prompt.images} images, fills {sorted(prompt.placeholders)} and asks for"
                f" {list(prompt.answer)}; want 1 image, ['modification'] and {ANSWER!r}"
            )
        return value


def check_writer(config: TargetTextConfig, resources: Resources) -> None:
    """Refuse a backend or a model that is not there, or resources that the backend cannot work with.

    Raises:
        LookupError, ValueError: saying which.
    """
    check_resources(config.backend, resources)
    locate_model(config.backend, config.model)


class MissingTexts(Exception):  # noqa: N818  (what is wrong, as in the message)
    """Queries have no usable target text; the message lists them."""


@dataclass(frozen=True)
class TargetTexts:
    """Answers of one model.

    Attributes:
        writer: model and revision.
        texts: query id to text, by benchmark.
        faults: query id to (reason, raw answer) of the queries without a usable text, by benchmark.
        asked: requests that the engine answered; `reused` came from the ledger.
    """

    writer: str
    texts: Mapping[str, Mapping[str, str]]
    faults: Mapping[str, Mapping[str, tuple[str, str]]]
    asked: int
    reused: int

    def check(self) -> None:
        """Raise `MissingTexts` if a query has no text."""
        lost = [(f"{name}/{one}", why) for name, faults in self.faults.items() for one, (why, _) in faults.items()]
        if not lost:
            return
        total = len(lost) + sum(map(len, self.texts.values()))
        told = "\n  ".join(f"{query}: {why}" for query, why in lost[:MOST_TOLD])
        more = f"\n  and {len(lost) - MOST_TOLD} more" if len(lost) > MOST_TOLD else ""
        raise MissingTexts(
            f"{self.writer} gave no usable target text for {len(lost)} of {total} queries:\n  {told}{more}\nAsk another"
            " model, or go on without these queries by --allow-missing: the rows target_text and joint then say how"
            " many they lost"
        )


def write_target_texts(
    benchmarks: Sequence[Benchmark], config: TargetTextConfig, resources: Resources, generations: Path
) -> TargetTexts:
    """Ask for the target text of every query; what the ledger has is not asked again.

    A query without a modification is not asked, and has no text.

    Args:
        benchmarks: with images that can be read.
        config: whom to ask, and how.
        resources: chunk, workers, what the engine may take.
        generations: Parquet file of all requests, replaced; a folder of its name with `.parts` serves in between.
    """
    prompt = prompts.load(config.prompt)
    pictures: dict[str, Picture] = {}
    for benchmark in benchmarks:
        pictures.update(_pictures(benchmark, config.engine.image_side, resources.workers))
    terms = Terms(locate_model(config.backend, config.model), config.sampling, config.engine, pictures)
    table = SortedTable(generations.with_suffix(".parts"), GENERATIONS, "request_id")
    texts: dict[str, dict[str, str]] = {benchmark.name: {} for benchmark in benchmarks}
    faults: dict[str, dict[str, tuple[str, str]]] = {benchmark.name: {} for benchmark in benchmarks}
    for benchmark in benchmarks:
        # CIRR's test split has one; a prompt with nothing in it would ask for anything.
        blank = (query.query_id for query in benchmark.queries if not query.modification.strip())
        faults[benchmark.name].update(dict.fromkeys(blank, (BLANK, "")))
    questions = [
        _question(benchmark.name, query, prompt)
        for benchmark in benchmarks
        for query in benchmark.queries
        if query.query_id not in faults[benchmark.name]
    ]
    with (
        progress(len(questions), "target texts") as advance,
        Asker(
            terms,
            load_backend(config.backend),
            resources,
            ledger=home() / "ledger",
            retries=config.retries,
            images_per_prompt=1,
            record=table.add,
        ) as asker,
    ):
        for outcome in asker.ask(prompt, questions):
            name, _, query_id = outcome.row_id.partition("/")
            if isinstance(outcome.texts, Rejected):
                faults[name][query_id] = (outcome.texts.reason, outcome.raw)
            else:
                texts[name][query_id] = outcome.texts[ANSWER]
            advance(1)
    table.write(generations)
    for benchmark in benchmarks:  # answers come in any order
        known = faults[benchmark.name]
        faults[benchmark.name] = {
            one.query_id: known[one.query_id] for one in benchmark.queries if one.query_id in known
        }
    writer = f"{terms.model}@{terms.located.revision[:12]}"
    return TargetTexts(writer, texts, faults, asker.figures.asked, asker.figures.reused)


def _question(name: str, query: Query, prompt: Prompt) -> Question:
    text = prompt.render(modification=query.modification)
    return Question(f"{name}/{query.query_id}", text, (f"{name}/{query.reference_id}",))


def _pictures(benchmark: Benchmark, side: int, workers: int) -> Iterator[tuple[str, Picture]]:
    """The references, each with the digest of the pixels that the model sees."""
    ids = list(dict.fromkeys(query.reference_id for query in benchmark.queries))
    loads = [partial(_seen, benchmark, image_id, side) for image_id in ids]
    with ThreadPoolExecutor(workers) as pool:
        digests = pool.map(lambda load: _pixels(load()), loads)
        for image_id, load, found in zip(ids, loads, digests, strict=True):
            yield f"{benchmark.name}/{image_id}", Picture(found, load)


def _seen(benchmark: Benchmark, image_id: str, side: int) -> Image.Image:
    image = benchmark.load_image(image_id)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return image


def _pixels(image: Image.Image) -> str:
    """A GeneCIS crop has no file of its own, so what counts here is what is seen."""
    head = canonical(["pixels", image.mode, list(image.size)]).encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()
