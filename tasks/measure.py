"""Measure checkpoints on the real benchmarks, by their official protocols."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import prompts
from data.annotations import Annotations, choose
from data.benchmarks import Benchmark
from data.config import Resources
from data.presence import Complete, MissingImages, check_images
from data.progress import progress
from data.protocols import Answer, outcome
from data.scoring import Outcome
from models.baselines import BASELINES, Baseline
from models.encoders import load_encoder
from tasks.store import home
from tasks.target_texts import TargetTexts

COMPOSED, TARGET_TEXT, JOINT = "composed", "target_text", "joint"

BASELINE_METHODS: tuple[Baseline, ...] = BASELINES

Given = TypeVar("Given")
Found = TypeVar("Found")


class NotReady(Exception):  # noqa: N818  (what is wrong, as in the messages)
    """Benchmarks cannot be measured.

    Attributes:
        problems: everything that is wrong with any of them.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Prepared:
    """A benchmark that is ready to be measured: annotations, images, and what it lost."""

    annotations: Annotations
    complete: Complete

    @property
    def benchmark(self) -> Benchmark:
        return self.complete.benchmark

    @property
    def protocol(self) -> dict[str, str]:
        """All choices, and the losses if there are any."""
        return dict(self.benchmark.protocol)

    def kept(self, texts: Mapping[str, str]) -> list[int]:
        """Places of the queries that have a text."""
        return [place for place, query in enumerate(self.benchmark.queries) if query.query_id in texts]

    def only(self, places: Sequence[int]) -> "Prepared":
        """The benchmark with some of its queries; its protocol says how many it lost for want of a text."""
        lost = len(self.benchmark.queries) - len(places)
        if not lost:
            return self
        smaller = replace(
            self.benchmark,
            queries=tuple(self.benchmark.queries[place] for place in places),
            protocol={**self.benchmark.protocol, "queries_without_target_text": str(lost)},
        )
        return Prepared(self.annotations.restricted(smaller), replace(self.complete, benchmark=smaller))


@dataclass(frozen=True)
class Measured:
    """The answers of one method to one benchmark.

    Attributes:
        prepared: the benchmark, with the queries that were answered.
        checkpoint: its label.
        kind: the method, whoever computed it.
        method: the name in tables: the kind, after the checkpoint's label where there are several.
        answers: in the order of the queries.
        choices: what decides the method's numbers beyond the benchmark's protocol.
        first: whether the checkpoint is the one that others are compared with.
    """

    prepared: Prepared
    checkpoint: str
    kind: str
    method: str
    answers: tuple[Answer, ...]
    choices: Mapping[str, str] = field(default_factory=dict)
    first: bool = True

    @property
    def outcome(self) -> Outcome:
        return outcome(self.prepared.annotations, self.answers)

    @property
    def protocol(self) -> dict[str, str]:
        """Of the benchmark, then of the method."""
        return {**self.prepared.protocol, **self.choices}


@dataclass(frozen=True)
class Encoded:
    """Where the features of one benchmark's images by one checkpoint came from."""

    checkpoint: str
    benchmark: str
    images: int
    state: str
    """ran or cached"""
    key: str


@dataclass(frozen=True)
class Evaluation:
    """All that was measured.

    Attributes:
        measured: in the order of the checkpoints and benchmarks.
        encoded: likewise.
        cut: texts longer than the checkpoint reads, by its label.
        texts: the target texts, where joint inference was asked for.
    """

    measured: list[Measured]
    encoded: list[Encoded]
    cut: dict[str, int]
    texts: TargetTexts | None = None


def wording(text: str) -> Any:
    """GeneCIS' texts: from the templates of `prompts/genecis`, or the bare condition (`text=condition`)."""

    def worded(task: str, condition: str) -> str:
        return prompts.load(f"genecis/{task}").render(condition=condition) if text == "template" else condition

    return worded


def prepare(
    choices: Mapping[str, Mapping[str, str]], split: str, root: Path, allow_missing: bool, resources: Resources
) -> list[Prepared]:
    """Load benchmarks, and only when the files of all of them are right look at every one of their images.

    Args:
        choices: protocol choices, by name of benchmark.
        split: of all of them.
        root: folder with their files.
        allow_missing: go on without images that are missing.
        resources: workers.

    Raises:
        NotReady: with all that the loaders and protocols refuse, else with the missing images of all benchmarks.
    """
    read = _each(lambda name: _read(name, split, root, choices[name]), choices)
    complete = _each(lambda one: check_images(one[1], allow_missing, resources.workers), read)
    return [
        Prepared(annotations.restricted(found.benchmark), found)
        for (annotations, _), found in zip(read, complete, strict=True)
    ]


def _each(work: Callable[[Given], Found], given: Iterable[Given]) -> list[Found]:
    """The results of all work, or all that is wrong."""
    found: list[Found] = []
    problems: list[str] = []
    for one in given:
        try:
            found.append(work(one))
        except (LookupError, ValueError, OSError, MissingImages) as error:
            problems.append(str(error))
    if problems:
        raise NotReady(problems)
    return found


def _read(name: str, split: str, root: Path, choices: Mapping[str, str]) -> tuple[Annotations, Benchmark]:
    """A benchmark before any of its images is opened."""
    module = importlib.import_module(f"data.benchmarks.{name}")
    protocol = choose(name, module.PROTOCOL, choices)
    more = {"wording": wording(protocol.text)} if name == "genecis" else {}
    annotations: Annotations = module.read(split, root, protocol, **more)
    return annotations, module.load(split, root=root, **choices, **more)


def measure(
    prepared: Sequence[Prepared],
    checkpoints: Mapping[str, str],
    baselines: Sequence[Baseline],
    depth: int,
    resources: Resources,
    texts: TargetTexts | None = None,
    weight: float = 0.5,
) -> Evaluation:
    """Answer every query with every checkpoint.

    The tokens of a benchmark's images by a checkpoint are an artifact of the store, used again by the next evaluation;
    the features of a vision tower are kept below the store's home, by gallery, for every checkpoint with this tower.
    Scores are computed in tiles; no device holds a gallery.

    Args:
        prepared: the benchmarks.
        checkpoints: by label. With one, methods are named plainly, with several `label/method`.
        baselines: methods beside the composed query.
        depth: ranked images to keep per answer; all of them where a submission needs them.
        resources: batch size, workers, device.
        texts: of the queries, for target_text (the text's [CLS] feature) and joint.
        weight: of target_text in joint, which is (1 - weight) * composed + weight * target_text.
    """
    import torch  # takes seconds to import

    from tasks.methods import Job
    from tasks.pictures import Pictures, images_digest

    half = resources.device != "cpu" and torch.cuda.is_available()
    dtype = "float16" if half else "float32"
    result = Evaluation([], [], {}, texts)
    names = list(checkpoints)
    towers = [home() / "towers" / images_digest(one.benchmark)[:20] for one in prepared]
    pictures = [Pictures(one.benchmark, folder, resources) for one, folder in zip(prepared, towers, strict=True)]
    methods = 1 + len(baselines) + (2 if texts else 0)
    work = sum(len(one.ids) + methods * len(one.benchmark.queries) for one in pictures)
    with progress(len(checkpoints) * work, "images and answers") as advance:
        for label, checkpoint in checkpoints.items():
            encoder = load_encoder(checkpoint, resources.device, dtype)
            for one, seen in zip(prepared, pictures, strict=True):
                job = Job(one, seen, encoder, names.index(label), names, depth, advance)
                result.encoded.append(job.encode(dtype, resources))
                result.measured.extend(job.baselines(baselines))
                result.measured.extend(job.texts(texts, weight) if texts else [job.composed()])
            result.cut[label] = encoder.truncations
    return result
