"""What a composed image retrieval benchmark is, and how one is found by its name.

One file per benchmark: `data/benchmarks/<name>.py` defines `load(split: str, **options) -> Benchmark`. The folder is
the registry: a new benchmark is a new file and no edit elsewhere. Foreign words (FashionIQ's `candidate`, CIRR's
`target_hard`, `relative_caption`) are translated to ours in those files and nowhere else.
"""

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from data.suggest import did_you_mean

Rule = Literal["target_first", "gallery_order", "target_last"]
"""The order of equal scores: the target first or last among its equals, or as the gallery lists them."""

METRIC = re.compile(r"(recall|subset_recall|map)@([1-9][0-9]*)")


@dataclass(frozen=True)
class Query:
    """One question to the retriever: a reference image and the modification that leads to its targets."""

    query_id: str
    reference_id: str
    modification: str
    targets: tuple[str, ...]
    """Gallery ids, the main target first; empty where a test split hides them."""
    subset: tuple[str, ...] = ()
    """Look-alikes among which `subset_recall@k` ranks: the main target included, the reference left out."""
    tags: tuple[str, ...] = ()
    """Kinds of edit, for figures per kind."""
    target_text: str | None = None
    """A description of the target, where one is known."""
    candidates: tuple[str, ...] = ()
    """The images this query ranks, where not all queries rank the whole gallery (FashionIQ's categories, GeneCIS)."""
    gains: tuple[float, ...] = ()
    """What finding each of `targets` is worth, in [0, 1]: recall is then the greatest among those found. Empty where
    recall asks for the main target alone."""
    phrasings: tuple[str, ...] = ()
    """Texts whose query tokens are averaged and normalised, where the protocol asks for more than `modification`."""


@dataclass(frozen=True)
class Benchmark:
    """Gallery, queries and the rules by which answers are scored.

    Raises:
        ValueError: if ids repeat, a target or look-alike is not in the gallery, a metric is unknown or asks for what a
            query lacks, or `protocol["reference"]` is neither "mask" nor "keep".
    """

    name: str
    split: str
    gallery: tuple[str, ...]
    """Image ids in the benchmark's own order, which may decide ties; see `official`."""
    queries: tuple[Query, ...]
    protocol: Mapping[str, str]
    """`reference`: "mask" takes a query's reference out of the gallery, "keep" lets it compete. `per_tag` (optional):
    the metric that is also reported for each tag; without it, the first of `metrics`. Further entries only describe."""
    metrics: tuple[str, ...]
    """`recall@k` and `subset_recall@k` of the main target, `map@k` over all targets; the first is the headline."""
    source: str
    licence: str
    load_image: Callable[[str], Image.Image]
    """RGB image of a gallery or reference id; raises `data.images.BadImage`."""
    digest: str
    """Changes whenever a query, the gallery, an image or the protocol does."""
    official: Rule = "gallery_order"
    """The benchmark's own rule for equal scores; `protocol["ties"]`: "pessimistic" puts targets last instead."""
    images: str = ""
    """Fingerprint of the image files, whatever is asked about them; empty where only `digest` tells of the images."""

    doubt: Callable[[str], str | None] | None = None
    """What is wrong with an image that can be read, where its authors say how to tell; None for nothing."""

    def __post_init__(self) -> None:
        where = f"benchmark {self.name!r} ({self.split})"
        _refuse_repeats(where, "gallery image", self.gallery)
        _refuse_repeats(where, "query", [query.query_id for query in self.queries])
        if self.protocol.get("reference") not in ("mask", "keep"):
            raise ValueError(
                f"{where}: protocol['reference'] is {self.protocol.get('reference')!r}; want 'mask' or 'keep'"
            )
        per_tag = [self.protocol["per_tag"]] if "per_tag" in self.protocol else []
        for metric in [*self.metrics, *per_tag]:
            if METRIC.fullmatch(metric) is None:
                raise ValueError(
                    f"{where}: unknown metric {metric!r}; want recall@k, subset_recall@k or map@k with k >= 1"
                )
        known = frozenset(self.gallery)
        # Thousands of queries share one tuple of candidates: it is looked at once.
        for candidates in {id(query.candidates): query.candidates for query in self.queries}.values():
            strangers = set(candidates) - known
            if strangers:
                raise ValueError(f"{where}: {min(strangers)!r} is a candidate of a query but not in the gallery")
        for query in self.queries:
            self._check(where, query, known)

    @property
    def per_tag(self) -> str | None:
        """The metric that is also reported for the queries of each tag."""
        return self.protocol.get("per_tag", self.metrics[0] if self.metrics else None)

    def _check(self, where: str, query: Query, known: frozenset[str]) -> None:
        outside = [image for image in (*query.targets, *query.subset) if image not in known]
        if outside:
            raise ValueError(f"{where}: query {query.query_id!r} names {outside[0]!r}, which is not in the gallery")
        if query.gains and len(query.gains) != len(query.targets):
            raise ValueError(
                f"{where}: query {query.query_id!r} has {len(query.targets)} targets and {len(query.gains)} gains"
            )
        if query.gains and any(metric.startswith("map") for metric in self.metrics):
            raise ValueError(f"{where}: query {query.query_id!r} has gains, for which map@k is not defined")
        if query.targets and query.candidates and query.targets[0] not in query.candidates:
            raise ValueError(f"{where}: the candidates of query {query.query_id!r} lack its target")
        if self.metrics and not query.targets:
            raise ValueError(
                f"{where}: query {query.query_id!r} has no target, so {self.metrics[0]} is undefined; give no metrics"
            )
        if self.protocol["reference"] == "mask" and query.reference_id in query.targets:
            raise ValueError(
                f"{where}: query {query.query_id!r} has its own reference as target, which the protocol masks"
            )
        if any(metric.startswith("subset_recall") for metric in self.metrics) and query.targets[0] not in query.subset:
            raise ValueError(f"{where}: the subset of query {query.query_id!r} lacks its target {query.targets[0]!r}")


def names() -> list[str]:
    """Names that `load_benchmark` knows: the files of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load_benchmark(name: str, split: str = "val", **options: object) -> Benchmark:
    """Load `data/benchmarks/<name>.py`'s benchmark; `options` (a root folder, a category) are that file's own.

    Raises:
        LookupError: if there is no such file; names the nearest.
    """
    if name not in names():
        raise LookupError(f"no benchmark {name!r};{did_you_mean(name, names())}")
    benchmark = importlib.import_module(f"{__name__}.{name}").load(split, **options)
    if not isinstance(benchmark, Benchmark):
        raise TypeError(f"data/benchmarks/{name}.py: load() gave {type(benchmark).__name__}, want Benchmark")
    return benchmark


def _refuse_repeats(where: str, what: str, ids: tuple[str, ...] | list[str]) -> None:
    repeated = [one for one, times in Counter(ids).items() if times > 1]
    if repeated:
        raise ValueError(f"{where}: {what} {repeated[0]!r} occurs more than once; ids must be unique")
