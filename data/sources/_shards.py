"""Images in shards, as img2dataset and WebDataset make them; how a shard is stored is the business of its source.

One shard at a time is in memory: its list of members and its table. Pixels stay where they are.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, JsonValue

from data.places import Place, read_bytes
from data.sources import Item
from data.sources._records import Record, read_records, record
from data.sources._splits import of_split
from data.sources._subset import Choice, Subset, chooser, wnid

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm")


class ShardsConfig(Subset):
    """Which shards to read, and what of them."""

    path: Path = Field(description="the folder of the shards")
    split: str | None = Field(default=None, description="only shards of this split, where their names tell")
    trim: bool = Field(default=False, description="cut off the white bars of img2dataset's resize mode border")


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard: its name below the root, its body (a tar, a folder), and what img2dataset wrote beside it."""

    name: str
    body: Path | None
    table: Path | None
    stats: Path | None


@dataclass
class Index:
    """What a body holds.

    Attributes:
        members: by key the members of a sample, by suffix.
        extra: key, reason and detail of members that are no part of a sample.
        fault: reason and detail, if the body is not whole.
    """

    members: dict[str, dict[str, Place]] = field(default_factory=dict)
    extra: list[tuple[str, str, str]] = field(default_factory=list)
    fault: tuple[str, str] | None = None

    def add(self, name: str, place: Place) -> None:
        """Take a member; its key is its path up to the first dot of its file name, as WebDataset has it."""
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            self.extra.append((readable, "bad_name", "the name is not UTF-8"))
            return
        folder, slash, file = name.removeprefix("./").rpartition("/")
        base, dot, suffix = file.partition(".")
        if not base or not dot:
            self.extra.append((name, "not_an_image", "a member without a suffix belongs to no sample"))
            return
        sample = self.members.setdefault(f"{folder}{slash}{base}", {})
        if suffix.lower() in sample:
            self.extra.append((name, "repeated_key", "an earlier member of the shard has the same name"))
        else:
            sample[suffix.lower()] = place


class Shards:
    """The images of some shards, in the order of their ids ``SHARD/KEY``."""

    def __init__(self, config: ShardsConfig, shards: Sequence[Shard], read_index: Callable[[Path], Index]) -> None:
        """Take the shards that were found.

        Args:
            config: the settings.
            shards: all of them; of their splits one is taken.
            read_index: from a shard's body to what it holds; reads no pixels.

        Raises:
            ValueError: if the wanted split is not there, or several are and none is wanted, or ids of two shards would
                mix.
        """
        self._config, self._read_index = config, read_index
        chosen = of_split(shards, lambda shard: shard.name, config.split, "shards")
        names = {shard.name for shard in chosen}
        for name in sorted(names):
            mixed = sorted(names & {parent.as_posix() for parent in PurePosixPath(name).parents})
            if mixed:
                raise ValueError(
                    f"{config.path} has a shard {mixed[0]!r} and a folder of that name with {name!r}; give one"
                )
        # As "name/", so that ids of one shard come before those of the next.
        self._shards = sorted(chosen, key=lambda shard: f"{shard.name}/")
        self._chooser: Callable[[], Choice] | None = None

    def __length_hint__(self) -> int:
        """Number of rows, where the tables or a limit tell it; NotImplemented otherwise."""
        known = self._config.limit
        if self._config.everything:
            known = _table_rows([shard.table for shard in self._shards])
        return NotImplemented if known is None else known

    def listing(self) -> str:
        """SHA-256 over names, sizes and times of all shards; raises as `chooser` does."""
        digest = hashlib.sha256(f"{self._config.path.resolve()}\n{self._config.list_digest()}".encode())
        for shard in self._shards:
            for path in (shard.body, shard.table, shard.stats):
                status = path.stat() if path is not None else None
                facts = None if status is None else (status.st_size, status.st_mtime_ns)
                digest.update(f"{shard.name}\0{facts}\n".encode())
        self._chooser = None
        self._choice()
        return digest.hexdigest()

    def figures(self) -> Mapping[str, JsonValue]:
        """How many shards there are, and how many lack what img2dataset writes beside a finished one."""
        numbers = [int(shard.name) for shard in self._shards if shard.name.isdecimal()]
        by_img2dataset = any(shard.table is not None for shard in self._shards)
        counts = {
            "shards": len(self._shards),
            "shards_without_body": sum(shard.body is None for shard in self._shards),
            "shards_without_table": sum(shard.table is None for shard in self._shards) * by_img2dataset,
            "shards_without_stats": sum(shard.stats is None for shard in self._shards) * by_img2dataset,
            "gaps_in_numbering": max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0,
        }
        return {name: count for name, count in counts.items() if count or name == "shards"}

    def items(self) -> Iterator[Item]:
        """Every row of every shard, sorted by id."""
        choice = self._choice()
        for shard in self._shards:
            if choice is not None and choice.ended(f"{shard.name}/"):
                break
            yield from self._items(shard, choice)
        if choice is not None:
            yield from choice.absent()

    def _choice(self) -> Choice | None:
        if self._config.everything:
            return None
        if self._chooser is None:
            try:
                self._chooser = chooser(self._config, self._entries)
            except ValueError as error:
                raise ValueError(f"{error} in {self._config.path}") from error
        return self._chooser()

    def _entries(self) -> Iterator[tuple[str, str | None]]:
        """Ids and classes of all images, from the tables where there are some, else from the bodies' lists."""
        for shard in self._shards:
            records, _ = _records(shard)
            index = Index() if records and not self._config.classes else self._index(shard)
            for key in sorted(records.keys() | index.members.keys()):
                known, members = records.get(key), index.members.get(key, {})
                if _drawable(known, members):
                    yield f"{shard.name}/{key}", _label(key, members)

    def _index(self, shard: Shard) -> Index:
        return Index() if shard.body is None else self._read_index(shard.body)

    def _items(self, shard: Shard, choice: Choice | None) -> Iterator[Item]:
        index = self._index(shard)
        records, fault = _records(shard, index)
        if choice is None:
            for path, problem in ((shard.body, index.fault), (shard.table, fault)):
                if problem is not None and path is not None:
                    yield _refused(f"{shard.name}{path.suffix}", *problem)
        for key in sorted(index.members.keys() | records.keys()):
            members, known = index.members.get(key, {}), records.get(key)
            image_id, label = f"{shard.name}/{key}", _label(key, members)
            if choice is not None and not choice.takes(image_id, label):
                continue
            if self._config.limit is not None and not _drawable(known, members):
                continue
            yield self._item(image_id, members, known, label)
            for suffix in [suffix for suffix in IMAGE_SUFFIXES if suffix in members][1:]:
                yield _refused(f"{image_id}.{suffix}", "extra_image", "the sample has another image, which is taken")
        if choice is None:
            for member, reason, detail in index.extra:
                yield _refused(f"{shard.name}/{member}", reason, detail)

    def _item(self, image_id: str, members: Mapping[str, Place], known: Record | None, label: str | None) -> Item:
        if known is not None and known.failure is not None:
            return _refused(image_id, *known.failure)
        place = _image(members)
        if place is None:
            if known is not None:
                return _refused(image_id, "lost_from_shard", "the table calls it a success, but the shard lacks it")
            return _refused(image_id, "no_image", f"of the sample there is only {', '.join(sorted(members))}")
        try:
            if known is None:
                known = _described(members)
            text = members.get("txt") if known.caption is None else None
            caption = None if text is None else read_bytes(text).decode("utf-8", "replace")
        except OSError as error:
            return _refused(image_id, "unreadable", error.strerror or str(error))
        return known.item(image_id, place, label, caption, self._config.trim)


def _table_rows(tables: Sequence[Path | None]) -> int | None:
    total = 0
    for table in tables:
        try:
            total += pq.read_metadata(table).num_rows if table is not None else 0
        except (pa.ArrowException, OSError):
            return None
    return total if all(table is not None for table in tables) else None


def _records(shard: Shard, index: Index | None = None) -> tuple[dict[str, Record], tuple[str, str] | None]:
    """A shard's table by key; without one, or with an unfinished one, nothing, and what is wrong with it.

    Rows whose key was there before are noted in `index`.
    """
    records: dict[str, Record] = {}
    try:
        for key, known in read_records(shard.table) if shard.table is not None else ():
            if records.setdefault(key, known) is not known and index is not None:
                index.extra.append((key, "repeated_key", "an earlier row of the table has the same key"))
    except ValueError as error:
        return {}, ("unreadable_table", str(error))
    return records, None


def _described(members: Mapping[str, Place]) -> Record:
    """What the JSON beside an image says; nothing without one, or if it is broken."""
    place = members.get("json")
    try:
        found = json.loads(read_bytes(place)) if place is not None else {}
    except ValueError:
        found = {}
    return record({**found, "status": None} if isinstance(found, dict) else {})


def _image(members: Mapping[str, Place]) -> Place | None:
    return next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)


def _drawable(known: Record | None, members: Mapping[str, Place]) -> bool:
    return _image(members) is not None if known is None else known.failure is None


def _label(key: str, members: Mapping[str, Place]) -> str | None:
    found = wnid("", key)
    if found is None and "cls" in members:
        return read_bytes(members["cls"]).decode("utf-8", "replace").strip() or None
    return found


def _refused(image_id: str, reason: str, detail: str) -> Item:
    return Item(image_id, None, None, None, None, (reason, detail))
