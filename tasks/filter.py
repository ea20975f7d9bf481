"""Filter: look at every triplet before it may teach a retriever, and say of each that goes why it went."""

import json
import pickle
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.artifact import Artifact, Counts, write_atomically, write_json, write_table
from data.config import Resources, StageConfig
from data.progress import progress
from data.schemas import GENERATIONS, REJECTED, TRIPLETS, VERDICTS
from models.backends import check_resources
from tasks.filters import Filter, Measured, Row, World
from tasks.filters._mllm import Asked
from tasks.filters.contamination import Config as Contamination
from tasks.filters.far_apart import Config as FarApart
from tasks.filters.image_alone import Config as ImageAlone
from tasks.filters.image_talk import Config as ImageTalk
from tasks.filters.judge import Config as Judge
from tasks.filters.names_target import Config as NamesTarget
from tasks.filters.near_duplicate import Config as NearDuplicate
from tasks.filters.reference_leak import Config as ReferenceLeak
from tasks.filters.round_trip import Config as RoundTrip
from tasks.filters.same_picture import Config as SamePicture
from tasks.filters.same_text import Config as SameText
from tasks.filters.text_alone import Config as TextAlone
from tasks.filters.too_generic import Config as TooGeneric
from tasks.filters.too_long import Config as TooLong
from tasks.filters.ungrounded import Config as Ungrounded
from tasks.filters.unsupported import Config as Unsupported
from tasks.spill import SortedTable
from tasks.stage import stage

_ROWS = 4096  # triplets read, measured and written at a time
_LONGEST = 600  # characters of what a rejected row tells


class FilterConfig(StageConfig):
    """Which filters look, in this order: the cheap ones first. What one drops the next does not see."""

    too_long: TooLong = TooLong()
    too_generic: TooGeneric = TooGeneric()
    image_talk: ImageTalk = ImageTalk()
    reference_leak: ReferenceLeak = ReferenceLeak()
    names_target: NamesTarget = NamesTarget()
    same_text: SameText = SameText()
    ungrounded: Ungrounded = Ungrounded()
    unsupported: Unsupported = Unsupported()
    far_apart: FarApart = FarApart()
    near_duplicate: NearDuplicate = NearDuplicate()
    same_picture: SamePicture = SamePicture()
    contamination: Contamination = Contamination()
    image_alone: ImageAlone = ImageAlone()
    text_alone: TextAlone = TextAlone()
    round_trip: RoundTrip = RoundTrip()
    judge: Judge = Judge()

    def switched_on(self) -> dict[str, Filter]:
        """The filters that are on, by name, in their order."""
        every = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in every.items() if one.on}


def check_filters(config: FilterConfig, resources: Resources) -> None:
    """Raise a ValueError if the backend of a filter cannot work with these resources; for recipes, as they start."""
    for name, one in config.switched_on().items():
        if isinstance(one, Asked):
            try:
                check_resources(one.backend, resources)
            except ValueError as error:
                raise ValueError(f"filter.{name}: {error}") from None


def deciding_facts(config: FilterConfig, triplets: Artifact, images: Artifact, tokens: Artifact) -> dict[str, Any]:
    """What the filters' settings only name: a judge's weights and prompt, the galleries' images."""
    return {name: facts for name, one in config.switched_on().items() if (facts := one.facts())}


@stage(version=4, facts=deciding_facts)
def filter(
    out: Path, config: FilterConfig, triplets: Artifact, images: Artifact, tokens: Artifact, *, resources: Resources
) -> Counts:
    """Write triplets.parquet with the kept rows, dropped.parquet with the others, both in the order they came in.

    verdicts.parquet has a row for each filter and each triplet that it saw, ordered by filter and then as the
    triplets; rejected.parquet one for each dropped triplet; yields.json what each filter read, kept and dropped;
    generations.parquet what filters asked an MLLM. A triplet that a filter cannot measure (no caption, no target
    image) is kept, and its verdict says why there is no value.

    Raises:
        ValueError: if triplets and images do not belong together, or as the filters do.
    """
    generations = SortedTable(out / "unsorted", GENERATIONS, "request_id")
    sieve = _Sieve(triplets.file("triplets.parquet"), out)
    yields = []

    def judged(world: World) -> Iterator[Sequence[Row]]:
        for name, one in config.switched_on().items():
            yield from sieve.verdicts(name, one, world)
            yields.append(sieve.last)

    with World(images, tokens, resources, generations.add) as world:
        _write(out / "verdicts.parquet", VERDICTS, judged(world))
    for name, alive in (("triplets", True), ("dropped", False)):
        _write(out / f"{name}.parquet", TRIPLETS, sieve.chosen(sieve.alive if alive else ~sieve.alive))
    write_table(out / "rejected.parquet", sieve.rejected(), REJECTED)
    write_json(out / "yields.json", yields)
    generations.write(out / "generations.parquet")
    kept = int(sieve.alive.sum())
    return Counts(
        read=len(sieve.alive),
        kept=kept,
        dropped=dict(Counter(name for name, _ in sieve.faults.values())),
        written=kept,
        detail={one["filter"]: [one["read"], one["kept"]] for one in yields},
    )


class _Sieve:
    """The triplets of a file and what is left of them.

    Attributes:
        alive: (N,) bool, which are left.
        faults: by place of a dropped triplet the filter that dropped it, and what it found.
        last: what the last filter came to.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Take the triplets of a file, and a folder for what has to wait."""
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(TRIPLETS, check_metadata=False):
                raise ValueError(f"{path} has another schema than triplets have now; run generate again")
            self.ids = file.read(["triplet_id"])["triplet_id"].combine_chunks()
        self.path, self.folder = path, folder
        self.alive: npt.NDArray[np.bool_] = np.ones(len(self.ids), dtype=bool)
        self.faults: dict[int, tuple[str, str]] = {}
        self.last: dict[str, Any] = {}

    def verdicts(self, name: str, one: Filter, world: World) -> Iterator[Sequence[Row]]:
        """Let a filter look at what is left, and take out what it does not keep."""
        seen = self.alive.copy()
        places = np.flatnonzero(seen).tolist()
        left, measured, dropped, unjudged = iter(places), 0, 0, Counter[str]()
        with progress(len(places), name) as advance, TemporaryFile(dir=self.folder) as waiting:
            parts = _parts(one.measure((row for some in self.chosen(seen) for row in some), world), advance)
            if one.drop is not None:
                one, parts = _settled(one, parts, waiting)
            for some in parts:
                verdicts = [self._verdict(name, one, place, found) for found, place in zip(some, left, strict=False)]
                measured += len(some)
                dropped += sum(not verdict["kept"] for verdict in verdicts)
                unjudged.update(verdict["reason"] for verdict in verdicts if verdict["value"] is None)
                yield verdicts
        if measured != len(places):
            raise RuntimeError(f"filter {name} gave {measured} values for {len(places)} triplets")
        self.last = {
            "filter": name, "threshold": one.threshold, "keeps": one.keeps, "read": measured,
            "kept": measured - dropped, "dropped": dropped, "unjudged": dict(sorted(unjudged.items())),
        }  # fmt: skip

    def _verdict(self, name: str, one: Filter, place: int, found: Measured) -> dict[str, Any]:
        kept = one.keep(found.value)
        if not kept:
            self.alive[place] = False
            self.faults[place] = (name, f"{found.value:.4g}, {_bound(one)}; {found.found}"[:_LONGEST])
        return {
            "triplet_id": self.ids[place].as_py(),
            "filter": name,
            "value": found.value,
            "threshold": one.threshold,
            "kept": kept,
            "reason": found.found if found.value is None else None if kept else name,
        }

    def chosen(self, mask: npt.NDArray[np.bool_]) -> Iterator[list[Row]]:
        """Rows of the file, a batch at a time."""
        start = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                here = mask[start : start + len(batch)]
                start += len(batch)
                if here.any():
                    yield batch.filter(pa.array(here)).to_pylist()

    def rejected(self) -> pa.Table:
        rows = [
            {"row_id": self.ids[place].as_py(), "stage": "filter", "reason": name, "detail": detail}
            for place, (name, detail) in sorted(self.faults.items())
        ]
        return pa.Table.from_pylist(rows, schema=REJECTED)


def _parts(measured: Iterator[Measured], advance: Callable[[int], None]) -> Iterator[list[Measured]]:
    while some := list(islice(measured, _ROWS)):
        yield some
        advance(len(some))


def _settled(one: Filter, parts: Iterator[list[Measured]], file: IO[bytes]) -> tuple[Filter, Iterator[list[Measured]]]:
    """Measure all before the first verdict; what was found waits in a file."""
    values = array("d")
    for some in parts:
        pickle.dump(some, file)
        values.extend(found.value for found in some if found.value is not None)
    file.seek(0)
    return one.settled(values), _loaded(file)


def _loaded(file: IO[bytes]) -> Iterator[list[Measured]]:
    while True:
        try:
            yield pickle.load(file)
        except EOFError:
            return


def _bound(one: Filter) -> str:
    return f"{one.keeps.replace('_', ' ')} {one.threshold:g}"


def _write(path: Path, schema: pa.Schema, parts: Iterator[Sequence[Row]]) -> None:
    def fill(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as file:
            for rows in parts:
                file.write_table(pa.Table.from_pylist(rows, schema=schema))

    write_atomically(path, fill)


def read_yields(artifact: Artifact) -> list[dict[str, Any]]:
    """What each filter of an artifact came to: filter, threshold, keeps, read, kept, dropped, unjudged by reason."""
    found: list[dict[str, Any]] = json.loads(artifact.file("yields.json").read_text(encoding="utf-8"))
    return found
