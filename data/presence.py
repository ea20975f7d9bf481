"""Whether all images of a benchmark are there, before a run; and the benchmark without those that are not."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from data.benchmarks import Benchmark, Query
from data.images import BadImage
from data.keys import digest
from data.progress import progress

# Images beyond this number are counted, not listed, in a message.
MOST_TOLD = 20


class MissingImages(Exception):  # noqa: N818  (what is wrong, as in the message)
    """Images of a benchmark are missing or cannot be read.

    Attributes:
        benchmark: its name.
        faults: image id to what is wrong with it, all of them.
    """

    def __init__(self, benchmark: Benchmark, faults: dict[str, str]) -> None:
        images, queries = losses(benchmark, faults)
        told = "\n  ".join(f"{image}: {fault}" for image, fault in list(faults.items())[:MOST_TOLD])
        more = f"\n  and {len(faults) - MOST_TOLD} more" if len(faults) > MOST_TOLD else ""
        super().__init__(
            f"{benchmark.name} {benchmark.split}: {len(faults)} images are missing or unreadable, which touches"
            f" {len(queries)} of {len(benchmark.queries)} queries and {len(images)} of {len(benchmark.gallery)} gallery"
            f" images:\n  {told}{more}\nBring them, or go on without them by --allow-missing: scores on fewer images"
            " are not comparable with published ones"
        )
        self.benchmark = benchmark.name
        self.faults = faults


@dataclass(frozen=True)
class Complete:
    """A benchmark all of whose images can be read.

    Attributes:
        benchmark: with its queries and gallery, less what was lost.
        lost_queries: ids of queries that are gone: their reference or a target is missing.
        lost_images: gallery images that are gone.
    """

    benchmark: Benchmark
    lost_queries: tuple[str, ...] = ()
    lost_images: tuple[str, ...] = ()

    @property
    def losses(self) -> dict[str, str]:
        """What every score of a reduced benchmark carries in its protocol; nothing for a whole one."""
        if not self.lost_queries and not self.lost_images:
            return {}
        return {"lost_queries": str(len(self.lost_queries)), "lost_gallery_images": str(len(self.lost_images))}


def check_images(benchmark: Benchmark, allow_missing: bool = False, workers: int = 2) -> Complete:
    """Decode every image of the gallery and every reference.

    A query is lost with its reference, with any of its targets (its worth would change), or with a member of its set
    or a rival of its own small gallery; a gallery image is lost alone.

    Args:
        benchmark: as loaded.
        allow_missing: go on without what is lost.
        workers: threads that decode.

    Raises:
        MissingImages: if something is lost and `allow_missing` is off, or if no query is left.
    """
    faults = find_faults(benchmark, workers)
    if not faults:
        return Complete(benchmark)
    images, queries = losses(benchmark, faults)
    if not allow_missing or len(queries) == len(benchmark.queries):
        raise MissingImages(benchmark, faults)
    gone, unasked = frozenset(images), frozenset(queries)
    # Thousands of queries share one tuple of candidates, and still do afterwards.
    found = {id(query.candidates): query.candidates for query in benchmark.queries}
    left = {one: tuple(image for image in candidates if image not in gone) for one, candidates in found.items()}
    kept = tuple(
        replace(query, candidates=left[id(query.candidates)])
        for query in benchmark.queries
        if query.query_id not in unasked
    )
    complete = Complete(benchmark, tuple(queries), tuple(images))
    smaller = replace(
        benchmark,
        gallery=tuple(image for image in benchmark.gallery if image not in gone),
        queries=kept,
        protocol={**benchmark.protocol, **complete.losses},
        digest=digest([benchmark.digest, sorted(faults)]),
    )
    return replace(complete, benchmark=smaller)


def find_faults(benchmark: Benchmark, workers: int = 2) -> dict[str, str]:
    """Image id to what is wrong with it, of all that cannot be read or are not what they should be; in the
    benchmark's order."""
    ids = list(dict.fromkeys([*benchmark.gallery, *(query.reference_id for query in benchmark.queries)]))

    def fault(image_id: str) -> str | None:
        try:
            benchmark.load_image(image_id)
        except BadImage as error:
            return str(error)
        return benchmark.doubt(image_id) if benchmark.doubt else None

    found: dict[str, str] = {}
    with progress(len(ids), "images") as advance, ThreadPoolExecutor(workers) as pool:
        for image_id, told in zip(ids, pool.map(fault, ids), strict=True):
            if told is not None:
                found[image_id] = told
            advance(1)
    return found


def losses(benchmark: Benchmark, faults: Iterable[str]) -> tuple[list[str], list[str]]:
    """Gallery images and ids of queries that are lost with the faulty images."""
    gone = frozenset(faults)
    # FashionIQ's candidates are a gallery of thousands; GeneCIS' dozen belongs to the query, as a CIRR set does.
    own = benchmark.name == "genecis"

    def lost(query: Query) -> bool:
        needed = (query.reference_id, *query.targets, *query.subset, *(query.candidates if own else ()))
        return not gone.isdisjoint(needed)

    images = [image for image in benchmark.gallery if image in gone]
    return images, [query.query_id for query in benchmark.queries if lost(query)]
