"""Tables that are read and written some rows at a time, so that memory does not grow with them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.artifact import same_schema, write_atomically

BATCH = 1024
"""Rows that are in memory as Python objects at a time."""


def read_rows(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file that must have exactly `schema`, at most `BATCH` at a time.

    Args:
        path: the file.
        schema: of the whole file.
        columns: those wanted, in the schema's order; all if left out.

    Raises:
        ValueError: if the file has another schema; the difference is shown.
    """
    with pq.ParquetFile(path, memory_map=True) as file:
        same_schema(file.schema_arrow, schema, str(path))
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        # Columns that are read by threads of their own take the same time here, and twice the memory.
        for batch in file.iter_batches(batch_size=BATCH, columns=wanted.names, use_threads=False):
            yield pa.RecordBatch.from_arrays(batch.columns, schema=wanted)


class RowWriter:
    """Takes rows one by one and writes them `BATCH` at a time; see `row_writer`.

    Attributes:
        rows: taken so far.
    """

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.rows = 0
        self._file, self._schema = file, schema
        self._buffer: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row; a column that it lacks is null."""
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) == BATCH:
            self.flush()

    def flush(self) -> None:
        if self._buffer:
            self._file.write_table(pa.Table.from_pylist(self._buffer, schema=self._schema))
            self._buffer.clear()


@contextmanager
def row_writer(path: Path, schema: pa.Schema) -> Iterator[RowWriter]:
    """Write a Parquet file row by row; it appears whole when the block ends, and not at all if that raises."""
    temporary = path.with_name(f".{path.name}.rows.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as file:
            writer = RowWriter(file, schema)
            yield writer
            writer.flush()
        write_atomically(path, lambda place: temporary.replace(place))
    finally:
        temporary.unlink(missing_ok=True)
