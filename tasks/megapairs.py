"""MegaPairs' rows, read and written: `q_img`, `q_text` (a list), `t_img`, `hns` (a list; the first is the query image).

Source: the data set card in the README of VectorSpaceLab/MegaPairs, section "Dataset Structure".
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from data.artifact import Artifact, Counts, write_json
from data.config import StageConfig
from data.keys import digest, file_digest
from data.progress import progress
from data.schemas import IMAGES, REJECTED, TRIPLETS
from tasks.card import Exported, ExportOptions, Part, facts_of
from tasks.export import Files, missing, new_folder
from tasks.lineage import ancestor_with, lineage
from tasks.rows import BATCH, RowWriter, read_rows, row_writer
from tasks.spill import SortedTable
from tasks.stage import stage

FIELDS = ("q_img", "q_text", "t_img", "hns")
RECIPE = "megapairs"
_SUFFIXES = (".jsonl", ".parquet")
_SHOWN = 300  # characters of a faulty line that are kept
_TEXTS = pa.schema(  # the texts of usable lines, before those that are the same become one triplet
    [
        pa.field("order", pa.string(), nullable=False),  # texts of one pair follow each other, the same by line
        pa.field("triplet_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),  # its number, over all files
        pa.field("place", pa.string(), nullable=False),
        pa.field("texts", pa.int32(), nullable=False),  # of the line
        pa.field("reference_id", pa.string(), nullable=False),
        pa.field("target_id", pa.string(), nullable=False),
        pa.field("modification", pa.string(), nullable=False),
        pa.field("negative_ids", TRIPLETS.field("negative_ids").type, nullable=False),
    ]
)


class MegaPairsConfig(StageConfig):
    """Which rows to read. Their images are the ingested ones: ids are paths below ingest.path, as in the rows."""

    path: Path | None = Field(None, description="a .jsonl or .parquet file of MegaPairs rows, or a folder of them")
    limit: PositiveInt | None = Field(None, description="read so many rows at most, the first ones")

    def files(self) -> list[Path]:
        """The files to read, in order.

        Raises:
            ValueError: if there are none.
        """
        if self.path is None:
            raise ValueError("megapairs.path=... is needed: a .jsonl or .parquet file of MegaPairs rows, or a folder")
        found = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        files = [path for path in found if path.suffix in _SUFFIXES and path.is_file()]
        if not files:
            raise ValueError(f"megapairs.path: found no {' or '.join(_SUFFIXES)} file at {self.path}")
        return files


@dataclass(frozen=True)
class _Row:
    """One line as it was found: its place, and its fields or why it has none."""

    place: str
    fields: dict[str, Any] | None
    fault: tuple[str, str] | None = None


def listing_facts(config: MegaPairsConfig, images: Artifact) -> dict[str, Any]:
    """Digests of the files."""
    return {"files": [[path.name, file_digest(path)] for path in config.files()]}


@stage(version=2, facts=listing_facts)
def megapairs(out: Path, config: MegaPairsConfig, images: Artifact) -> Counts:
    """Write triplets.parquet, one triplet per text of a pair, and rejected.parquet, from MegaPairs rows.

    Rows that come in are lines. One that is no such row, or whose query or target image was not ingested, is dropped;
    a hard negative that was not ingested is left out of its list, and `detail` counts them. What several lines say of
    the same pair becomes one triplet with the hard negatives of all of them; a line that says nothing else than
    earlier ones is dropped as repeated, and `detail` counts the texts that were there already.

    Raises:
        ValueError: if no file is named, or no row is left.
    """
    known = set(images.read(IMAGES, "images.parquet")["image_id"].to_pylist())
    table = SortedTable(out / "unsorted", _TEXTS, "order")
    dropped, lost, read = Counter[str](), 0, 0
    with row_writer(out / "rejected.parquet", REJECTED) as rejected, progress(None, "rows") as advance:

        def drop(place: str, reason: str, detail: str) -> None:
            dropped[reason] += 1
            rejected.add({"row_id": place, "stage": "megapairs", "reason": reason, "detail": detail})

        for row in _lines(config):
            read += 1
            advance(1)
            fault = row.fault or _unusable(row.fields or {}, known)
            if fault is not None:
                drop(row.place, *fault)
                continue
            assert row.fields is not None
            negatives = [name for name in row.fields["hns"] if name in known]
            lost += len(row.fields["hns"]) - len(negatives)
            table.add(_texts(row, read, negatives))
        if read == dropped.total():
            raise ValueError(
                f"none of the {read:,} rows can be used ({dict(dropped) or 'there are none'}); image ids are paths"
                f" below ingest.path, such as {min(known, default='none')!r}"
            )
        table.write(out / "texts.parquet")
        with row_writer(out / "triplets.parquet", TRIPLETS) as triplets:
            repeated = _join(out / "texts.parquet", triplets, drop)
        (out / "texts.parquet").unlink()
    return Counts(
        read=read,
        kept=read - dropped.total(),
        dropped=dict(dropped),
        written=triplets.rows,
        detail={"negatives_missing": lost, "texts_repeated": repeated},
    )


def _lines(config: MegaPairsConfig) -> Iterator[_Row]:
    left = config.limit
    for path in config.files():
        for row in _parquet(path) if path.suffix == ".parquet" else _json_lines(path):
            if left == 0:
                return
            left = None if left is None else left - 1
            yield row


def _json_lines(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:  # some editors begin a file with a mark
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            place = f"{path.name}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield _Row(place, None, ("not_json", f"{error}: {line[:_SHOWN]}"))
                continue
            yield _checked(place, value)


def _parquet(path: Path) -> Iterator[_Row]:
    with pq.ParquetFile(path) as file:
        absent = [name for name in FIELDS if name not in file.schema_arrow.names]
        if absent:
            raise ValueError(f"{path} has no column {', '.join(absent)}; MegaPairs rows have {', '.join(FIELDS)}")
        number = 0
        for batch in file.iter_batches(batch_size=BATCH, columns=list(FIELDS)):
            for value in batch.to_pylist():
                number += 1
                yield _checked(f"{path.name}:{number}", value)


def _checked(place: str, value: Any) -> _Row:
    """A row whose fields have the right types; texts are freed of empty ones."""
    written = json.dumps(value, ensure_ascii=False, default=str)
    shown = written.encode("utf-8", "backslashreplace").decode("utf-8")[:_SHOWN]
    if not isinstance(value, dict) or not {"q_img", "q_text", "t_img"} <= value.keys():
        return _Row(place, None, ("missing_field", f"want {', '.join(FIELDS)}, found {shown}"))
    texts = [value["q_text"]] if isinstance(value["q_text"], str) else value["q_text"]
    negatives = value.get("hns") or []
    lists = (texts, negatives)
    sound = all(isinstance(one, list) and all(isinstance(item, str) for item in one) for one in lists)
    if not sound or not isinstance(value["q_img"], str) or not isinstance(value["t_img"], str):
        return _Row(place, None, ("wrong_type", f"want two paths and two lists of texts, found {shown}"))
    plain = list(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))
    if not plain:
        return _Row(place, None, ("no_text", shown))
    if not _is_unicode("".join(plain)):
        return _Row(place, None, ("not_unicode", shown))
    paths = {name: _id(value[name]) for name in ("q_img", "t_img")}
    return _Row(place, {**paths, "q_text": plain, "hns": [_id(name) for name in negatives]})


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: "\ud83d"
        return False
    return True


def _id(path: str) -> str:
    """The image's id: the path without a leading `./`."""
    return PurePosixPath(path).as_posix()


def _unusable(fields: dict[str, Any], known: set[str]) -> tuple[str, str] | None:
    for name, reason in (("q_img", "query_image_missing"), ("t_img", "target_image_missing")):
        if fields[name] not in known:
            return reason, f"{fields[name]!r} is none of the {len(known):,} ingested images"
    return None


def _texts(row: _Row, line: int, negatives: list[str]) -> list[dict[str, Any]]:
    """The rows of `_TEXTS` of a usable line."""
    assert row.fields is not None
    fields = row.fields
    pair_id = digest([fields["q_img"], fields["t_img"], RECIPE])[:32]
    found = []
    for text in fields["q_text"]:
        triplet_id = f"{pair_id}{digest(text)[:32]}"  # texts of one pair follow each other
        found.append(
            {
                "order": f"{triplet_id[:48]}{line:016x}",
                "triplet_id": triplet_id,
                "pair_id": pair_id,
                "line": line,
                "place": row.place,
                "texts": len(fields["q_text"]),
                "reference_id": fields["q_img"],
                "target_id": fields["t_img"],
                "modification": text,
                "negative_ids": negatives,
            }
        )
    return found


def _join(path: Path, triplets: RowWriter, drop: Callable[[str, str, str], None]) -> int:
    """Write a triplet for each different text of a pair, with the hard negatives of all lines that have it.

    Args:
        path: rows of `_TEXTS`, ordered.
        triplets: takes them.
        drop: told of the place, the reason and the detail of each line all of whose texts earlier lines have.

    Returns:
        How many texts earlier lines have.
    """
    provenance = {"model": RECIPE, "revision": "", "prompt_digest": "", "caption_prompt_digest": "", "request_ids": []}
    repeated, fresh = 0, dict[int, int]()  # by line that repeats a text, how many of its texts may be new
    rows = (row for batch in read_rows(path, _TEXTS) for row in batch.to_pylist())
    for triplet_id, group in groupby(rows, key=itemgetter("triplet_id")):
        first, *others = group
        negatives = dict.fromkeys(one for row in (first, *others) for one in row["negative_ids"])
        same = {name: first[name] for name in ("pair_id", "reference_id", "target_id", "modification")}
        constant = {"view": RECIPE, "recipe": RECIPE, "provenance": provenance}
        triplets.add({"triplet_id": triplet_id, **same, **constant, "negative_ids": list(negatives)})
        for row in others:
            repeated += 1
            left = fresh[row["line"]] = fresh.get(row["line"], row["texts"]) - 1
            if not left:
                del fresh[row["line"]]
                drop(row["place"], "repeated", f"as in {first['place']}: {row['modification'][:_SHOWN]}")
    return repeated


def export_megapairs(triplets: Artifact, to: Path, options: ExportOptions, force: bool = False) -> Exported:
    """Write megapairs.jsonl, one row per pair of images with all its texts, and the images beside it below images/.

    Triplets without a target image cannot be said in this form; they are counted as left out. With `paths` the rows
    name the files where they lie on this machine, and only images that are no files are copied.

    Raises:
        FileExistsError, LookupError, OSError: as `tasks.export.export_dataset`.
        ValueError: if no triplet has a target image.
    """
    files = Files(ancestor_with(triplets, "images.parquet"))
    done = Exported()
    with new_folder(to, force) as folder:
        rows = 0
        with (folder / "megapairs.jsonl").open("w", encoding="utf-8") as stream:
            for group in _pairs(triplets, done.dropped):
                row = _exported(group, folder, files, options, done.dropped)
                if row is not None:
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                    rows += 1
        if not rows:
            raise ValueError(f"no triplet can be written as a MegaPairs row; left out: {dict(done.dropped) or 'none'}")
        size = (folder / "megapairs.jsonl").stat().st_size
        done.parts[RECIPE] = Part("", pa.schema([]), rows, size, size)
        write_json(folder / "cirque.json", facts_of(lineage(triplets)))
    return done


def _pairs(triplets: Artifact, dropped: Counter[str]) -> Iterator[list[dict[str, Any]]]:
    """The triplets of one pair, which follow each other, together."""
    batches = read_rows(triplets.file("triplets.parquet"), TRIPLETS)
    rows = (row for batch in batches for row in batch.to_pylist())
    for (_, target), group in groupby(rows, key=lambda row: (row["reference_id"], row["target_id"])):
        if target is None:
            dropped["no_target_image"] += len(list(group))
        else:
            yield list(group)


def _exported(
    group: list[dict[str, Any]], folder: Path, files: Files, options: ExportOptions, dropped: Counter[str]
) -> dict[str, Any] | None:
    first = group[0]
    pair = (first["reference_id"], first["target_id"])
    negatives = dict.fromkeys([first["reference_id"], *(one for row in group for one in row["negative_ids"] or [])])
    places = {}
    for image_id in dict.fromkeys([*pair, *negatives]):
        try:
            places[image_id] = _put(folder, image_id, files, options)
        except (KeyError, OSError) as error:
            reason = "image_missing" if image_id in pair else "negative_image_missing"
            missing(error, image_id, options.allow_missing, dropped, reason)
            if image_id in pair:
                dropped[reason] += len(group) - 1  # so that triplets are counted
                return None
    return {
        "q_img": places[pair[0]],
        "q_text": [row["modification"] for row in group],
        "t_img": places[pair[1]],
        "hns": [places[image_id] for image_id in negatives if image_id in places and image_id != pair[1]],
    }


def _put(folder: Path, image_id: str, files: Files, options: ExportOptions) -> str:
    """Copy an image unless it is there already; its path as the row has it."""
    place = files.path(image_id)
    if options.images == "paths" and place is not None:
        place.stat()
        return str(place)
    suffix = files.suffix(image_id)
    name = PurePosixPath(image_id)
    if name.is_absolute() or ".." in name.parts:
        name = PurePosixPath(digest(image_id)[:32])
    path = PurePosixPath("images") / (name if name.suffix == suffix else f"{name}{suffix}")
    if not (folder / path).exists():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(files.bytes(image_id))
    return path.as_posix()
