"""A benchmark's queries and scoring rules, read from its annotation files without a single image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, TypeVar

from PIL import Image
from pydantic import ValidationError

from data.benchmarks import Benchmark, Query, Rule
from data.config import StageConfig
from data.keys import digest
from data.suggest import did_you_mean


class Scoring(StageConfig):
    """Choices that change what a ranking is worth; a benchmark adds its own and may set other defaults."""

    reference: Literal["mask", "keep"] = "keep"
    """mask takes the query's reference out of its gallery, keep lets it compete."""
    ties: Literal["official", "pessimistic"] = "official"
    """official: equal scores as the benchmark's evaluator breaks them; pessimistic: targets behind their equals."""


@dataclass(frozen=True)
class Annotations:
    """All that scoring needs.

    Attributes:
        name: of the benchmark.
        split: "val" or "test".
        queries: in annotation order.
        galleries: image ids in split-file order, by part: one part named "" where all queries share a gallery, one per
            category of FashionIQ, one per task of GeneCIS (its distinct crops). Empty where the gallery is unknown
            (CIRCO without COCO's list of images). A query's first tag is its part.
        protocol: every choice that was made, those that word the query among them.
        metrics: `[tag/]kind@k` with kind recall, subset_recall or map: the mean over the queries that carry the tag, or
            over all. Empty where the split hides its targets.
        averages: unweighted means of other metrics, by name.
        official: the benchmark's own rule for equal scores.
        splits: the whole split file, by part, where the protocol's gallery is smaller.
    """

    name: str
    split: str
    queries: tuple[Query, ...]
    galleries: Mapping[str, tuple[str, ...]]
    protocol: Scoring
    metrics: tuple[str, ...]
    averages: Mapping[str, tuple[str, ...]]
    official: Rule
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def candidates(self, query: Query) -> tuple[str, ...]:
        """The images that a query ranks, the reference among them."""
        return query.candidates or self.galleries.get("", ())

    @property
    def plain(self) -> tuple[str, ...]:
        """The metrics without tags, each once."""
        return tuple(dict.fromkeys(metric.split("/")[-1] for metric in self.metrics))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the galleries."""
        return tuple(self.galleries)

    def part(self, query: Query) -> str:
        """Name of the gallery that a query ranks."""
        return "" if "" in self.galleries or not self.galleries else query.tags[0]

    @property
    def images(self) -> tuple[str, ...]:
        """All gallery images, each once, in order of appearance."""
        return tuple(dict.fromkeys(chain.from_iterable(self.galleries.values())))

    def restricted(self, benchmark: Benchmark) -> "Annotations":
        """The same with the queries and gallery images that a smaller benchmark has left."""
        left = frozenset(benchmark.gallery)
        return replace(
            self,
            queries=benchmark.queries,
            galleries={part: tuple(one for one in ids if one in left) for part, ids in self.galleries.items()},
        )

    @property
    def needed(self) -> tuple[str, ...]:
        """Gallery images and references, each once."""
        return tuple(dict.fromkeys(chain(self.images, (query.reference_id for query in self.queries))))


Chosen = TypeVar("Chosen", bound=Scoring)


def choose(
    benchmark: str, kind: type[Chosen], given: Mapping[str, object], elsewhere: type[Scoring] = Scoring
) -> Chosen:
    """Check named protocol choices.

    Args:
        benchmark: its name, for messages.
        kind: the choices that are open.
        given: key to value.
        elsewhere: a wider kind; a key that only it knows is refused with the reason that it changes no score.

    Raises:
        LookupError: for an unknown key; names the nearest.
        ValueError: for a value that is not offered; names those that are.
    """
    for key in given:
        if key in kind.model_fields:
            continue
        if key in elsewhere.model_fields:
            raise LookupError(
                f"{benchmark}: protocol key {key!r} words the query and changes no score of finished rankings;"
                f" it belongs to evaluate. Here: {', '.join(sorted(kind.model_fields))}"
            )
        raise LookupError(f"{benchmark} has no protocol key {key!r};{did_you_mean(key, kind.model_fields)}")
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        told = "; ".join(f"protocol {one['loc'][0]}={one['input']!r}: {one['msg']}" for one in error.errors())
        raise ValueError(f"{benchmark}: {told}") from error


def one_split(benchmark: str, split: str, offered: Sequence[str]) -> None:
    """Raise `LookupError` unless the benchmark has the split."""
    if split not in offered:
        raise LookupError(f"{benchmark} has no split {split!r};{did_you_mean(split, offered)}")


def as_benchmark(
    annotations: Annotations,
    *,
    source: str,
    licence: str,
    load_image: Callable[[str], Image.Image],
    images: str,
    doubt: Callable[[str], str | None] | None = None,
) -> Benchmark:
    """What the evaluator needs beyond scoring: pictures, source and digest.

    Args:
        annotations: with a known gallery.
        source: where annotations and images come from.
        licence: of the annotations and, where known, the images.
        load_image: RGB image of a gallery or reference id.
        images: fingerprint of the image files.
        doubt: what is wrong with an image that can be read.
    """
    protocol = {key: str(value) for key, value in annotations.protocol.model_dump().items()}
    identity = [
        [annotations.name, annotations.split, protocol, images],
        {part: list(gallery) for part, gallery in annotations.galleries.items()},
        [_identity(query, annotations) for query in annotations.queries],
    ]
    return Benchmark(
        name=annotations.name,
        split=annotations.split,
        gallery=annotations.images,
        queries=annotations.queries,
        protocol=protocol,
        metrics=annotations.plain,
        source=source,
        licence=licence,
        load_image=load_image,
        digest=digest(identity),
        images=images,
        official=annotations.official,
        doubt=doubt,
    )


def _identity(query: Query, annotations: Annotations) -> list[object]:
    shared = any(query.candidates is gallery for gallery in annotations.galleries.values())
    return [
        [query.query_id, query.reference_id, query.modification, *query.phrasings],
        [list(query.targets), list(query.gains), list(query.subset), list(query.tags)],
        list(query.tags[:1] if shared else query.candidates),
    ]
