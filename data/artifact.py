"""Sealed output folders and the files in them.

Files are written whole under another name and renamed, so that a reader sees all of a file or none of it. The
manifest is written last: a folder with a manifest is complete.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, JsonValue, NonNegativeInt, model_validator

from data.keys import checksum, digest, file_digest

MANIFEST = "manifest.json"
# Arrow's own pool keeps what was freed, more with every row that a stage writes; the system's gives it back.
pa.set_memory_pool(pa.system_memory_pool())

TEMPORARY = ".*.tmp"  # names of files that a killed process left half-written
_CHECKED = re.compile(r"\.crc32-([0-9a-f]{8})$")  # ends the stem of a file whose name has its checksum


class DamagedFile(ValueError):  # noqa: N818  what there is, as in the message
    """A file that was written whole is not what it was; `path` says which."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class Counts(BaseModel):
    """What became of a stage's input rows.

    Attributes:
        read: input rows.
        kept: input rows that were used.
        dropped: input rows that were not, by reason; with `kept` they add up to `read`.
        written: output rows; one input row may give several or share one.
        detail: further figures for the report; they enter no sum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: NonNegativeInt
    kept: NonNegativeInt
    dropped: dict[str, NonNegativeInt] = {}
    written: NonNegativeInt
    detail: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _add_up(self) -> "Counts":
        lost = sum(self.dropped.values())
        if self.read != self.kept + lost:
            raise ValueError(
                f"rows do not add up: read {self.read}, but kept {self.kept} + dropped {lost} = {self.kept + lost}"
                f" (dropped: {self.dropped or 'none'})"
            )
        return self


@dataclass(frozen=True)
class Artifact:
    """A sealed output folder.

    Attributes:
        path: the folder.
        stage: name of the stage that wrote it.
        key: SHA-256 of all that decided its content, 64 hexadecimal digits.
        forced: whether this run made it anew on request, so that what is built on it is made anew too.
    """

    path: Path
    stage: str
    key: str
    forced: bool = False

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest: what decided the artifact, its counts and its files."""
        return read_manifest(self.path)

    @property
    def counts(self) -> Counts:
        return Counts.model_validate(self.manifest["counts"])

    @property
    def content(self) -> str:
        """Digest of the names and bytes of all files: two makings of one key may differ in it."""
        return str(self.manifest["content"])

    def file(self, name: str) -> Path:
        """Path of a file or folder of the artifact.

        Raises:
            FileNotFoundError: naming what there is instead.
        """
        path = self.path / name
        if not path.exists():
            there = ", ".join(sorted(item.name for item in self.path.iterdir())) if self.path.is_dir() else "nothing"
            raise FileNotFoundError(f"artifact {self.stage} at {self.path} has no {name!r}; it has {there}")
        return path

    def read(self, schema: pa.Schema, name: str) -> pa.Table:
        """Read a Parquet file of the artifact; see `read_table`."""
        return read_table(self.file(name), schema)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder.

    Raises:
        FileNotFoundError: if there is none: the folder was never sealed.
        ValueError: if it is not the JSON object it should be.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {MANIFEST}; it is not a sealed artifact")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); the artifact has to be made again") from error
    if not isinstance(manifest, dict) or not {"stage", "key", "counts", "files"} <= manifest.keys():
        raise ValueError(f"{path} is not a manifest; the artifact has to be made again")
    return manifest


def key_material(
    *, stage: str, version: int, config: Mapping[str, Any], facts: Mapping[str, Any], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides an artifact's content; its digest is the artifact's key."""
    return {
        "stage": stage,
        "version": version,
        "config": dict(config),
        "facts": dict(facts),
        "inputs": {name: dict(source) for name, source in inputs.items()},
    }


def seal(
    folder: Path,
    counts: Counts,
    *,
    stage: str,
    version: int = 1,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Artifact] | None = None,
    seconds: float = 0.0,
    commit: str | None = None,
) -> Artifact:
    """Write the manifest of a finished folder and return the folder as an artifact.

    Args:
        folder: the output folder; every file below it is measured and digested.
        counts: what became of the input rows.
        stage, version, config, facts, inputs: what decided the content; `config` and `facts` are plain JSON.
        seconds: time that the finishing attempt took.
        commit: revision of the code, for information.
    """
    sources = {name: {"stage": source.stage, "key": source.key} for name, source in (inputs or {}).items()}
    material = key_material(stage=stage, version=version, config=config or {}, facts=facts or {}, inputs=sources)
    key = digest(material)
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    manifest = {
        **material,
        "key": key,
        "counts": counts.model_dump(mode="json"),
        "files": files,
        "content": digest(files),
        # Not part of the key: a stage made anew on request keeps its key and may change its content.
        "input_contents": {name: source.content for name, source in (inputs or {}).items()},
        "seconds": round(seconds, 3),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cirque": {"commit": commit},
    }
    write_json(folder / MANIFEST, manifest)
    return Artifact(path=folder, stage=stage, key=key)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write a Parquet file whole.

    Raises:
        ValueError: if the table has another schema than `schema` or a null where the schema allows none.
    """
    same_schema(table.schema, schema, f"table for {path.name}")
    for column, field in zip(table.columns, schema, strict=True):
        _refuse_nulls(column, field, f"{path.name}: column {field.name!r}")
    write_atomically(
        path, lambda temporary: pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    )


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a Parquet file that must have exactly `schema`.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedFile: if it is not Parquet, or a page has other bytes than were written.
        ValueError: if it has other names, types or nullability; the difference is shown.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}")
    try:
        # Not pq.read_table: it would read columns out of folder names such as "seed=0".
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the process, not of the file
        raise DamagedFile(f"{path} is not a Parquet file: {error}", path) from error
    same_schema(table.schema, schema, str(path))
    return table.replace_schema_metadata(schema.metadata)


def write_json(path: Path, obj: object) -> None:
    """Write `obj` as indented JSON, whole. NaN and infinities are refused with a ValueError."""
    text = json.dumps(obj, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object], checked: bool = False) -> Path:
    """Let `write` fill a temporary file beside `path`, bring it to the disk and rename it to `path`, which is returned.

    With `checked` the name gets a checksum of the bytes, which `refuse_other_bytes` compares: x.crc32-89abcdef.arrow
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp lets nobody else read
        sync(temporary)
        if checked:
            path = with_checksum(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return path


def with_checksum(path: Path, content: Path) -> Path:
    """`path` with a checksum of the bytes of the file `content` in its name."""
    return path.with_name(f"{path.stem}.crc32-{checksum(content)}{path.suffix}")


def refuse_other_bytes(path: Path) -> None:
    """Raise a DamagedFile if a file's name has a checksum and its bytes, all of which are read, have another."""
    written = _CHECKED.search(path.stem)
    if written and checksum(path) != written[1]:
        raise DamagedFile(f"{path} has other bytes than were written", path)


def set_aside(path: Path) -> Path:
    """Take a damaged file out of use and give its new name; another process may have done so already."""
    torn = path.with_suffix(".torn")
    with suppress(FileNotFoundError):
        path.rename(torn)
    return torn


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, from the page cache to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def same_schema(found: pa.Schema, wanted: pa.Schema, what: str) -> None:
    """Raise a ValueError that shows the difference unless names, types and nullability are the same."""
    if found.equals(wanted, check_metadata=False):
        return
    have = {field.name: _describe(field) for field in found}
    want = {field.name: _describe(field) for field in wanted}
    lines = [f"  {name}: missing, expected {kind}" for name, kind in want.items() if name not in have]
    lines += [f"  {name}: unexpected, found {kind}" for name, kind in have.items() if name not in want]
    lines += [
        f"  {name}: found {have[name]}, expected {kind}"
        for name, kind in want.items()
        if name in have and have[name] != kind
    ]
    if not lines:
        lines = [f"  order: found {', '.join(found.names)}; expected {', '.join(wanted.names)}"]
    raise ValueError(f"{what} has another schema than expected:\n" + "\n".join(lines))


def _describe(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def _refuse_nulls(values: pa.ChunkedArray | pa.Array, field: pa.Field, where: str) -> None:
    if not field.nullable and values.null_count:
        raise ValueError(f"{where} has {values.null_count} nulls of {len(values)} values; none is allowed")
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        if pa.types.is_struct(field.type):
            present = chunk.drop_null()
            for place, child in enumerate(field.type):
                _refuse_nulls(present.field(place), child, f"{where}.{child.name}")
        elif pa.types.is_list(field.type):
            _refuse_nulls(chunk.flatten(), field.type.value_field, f"{where}[]")
