"""Files of Hugging Face data sets, read some rows at a time: Parquet, and Arrow as `save_to_disk` writes it."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 32  # that are in memory at a time, images included


class Table(Protocol):
    """A file with rows in groups."""

    path: Path

    @property
    def schema(self) -> pa.Schema:
        """Columns, with the file's metadata."""
        ...

    @property
    def groups(self) -> list[int]:
        """Rows of each group."""
        ...

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of a group, at most `ROWS` at a time. A column of a struct is named `struct.column`."""
        ...


class ParquetTable:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def schema(self) -> pa.Schema:
        return pq.read_schema(self.path)

    @cached_property
    def groups(self) -> list[int]:
        metadata = pq.read_metadata(self.path)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch_size=ROWS, row_groups=[group], columns=list(columns))


class ArrowTable:
    """A stream of record batches in a file, which is mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def schema(self) -> pa.Schema:
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_stream(source) as stream:
            return stream.schema

    @cached_property
    def groups(self) -> list[int]:
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_stream(source) as stream:
            return [sum(batch.num_rows for batch in stream)]

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                flat = {name: _column(batch, name) for name in columns}
                chosen = pa.RecordBatch.from_arrays(list(flat.values()), names=list(flat))
                yield from (chosen.slice(start, ROWS) for start in range(0, chosen.num_rows, ROWS))


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    column, _, child = name.partition(".")
    return batch[column].field(child) if child else batch[column]


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What the data set says of its columns, from the file's metadata; nothing if it says nothing."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: what for name, what in found.items() if isinstance(what, dict)} if isinstance(found, dict) else {}
