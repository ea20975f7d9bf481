"""Tables that are ordered by a key but come in any order, and may be larger than memory."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.artifact import write_atomically
from tasks.rows import BATCH

_BUFFER = 512  # rows held before they go to the disk
_PARTS = 64  # files, of which one is sorted at a time


class SortedTable:
    """Rows keyed by a SHA-256, gathered in files by the beginning of their key and sorted one file at a time.

    A 64th of the rows is in memory while they are written. Equal keys are equal rows: one of them is written.
    """

    def __init__(self, folder: Path, schema: pa.Schema, key: str) -> None:
        """Gather in `folder`, which is emptied first.

        Args:
            folder: for this object alone; removed in the end.
            schema: of the rows.
            key: its first column to order by: 64 hexadecimal digits.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._schema, self._key = folder, schema, key
        self._buffer: list[Mapping[str, Any]] = []
        self._writers: dict[str, pa.ipc.RecordBatchFileWriter] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows."""
        self._buffer.extend(rows)
        if len(self._buffer) >= _BUFFER:
            self._spill()

    def write(self, path: Path, revise: Callable[[pa.Table], pa.Table] | None = None) -> int:
        """Write all rows to a Parquet file, ordered, whole; returns their number.

        Args:
            path: the file, replaced.
            revise: changes some ordered rows before they are written; it keeps their number and schema.
        """
        self._spill()
        for writer in self._writers.values():
            writer.close()
        written = 0

        def fill(temporary: Path) -> None:
            nonlocal written
            with pq.ParquetWriter(temporary, self._schema, compression="zstd") as file:
                for rows in self._batches():
                    file.write_table(rows if revise is None else revise(rows))
                    written += rows.num_rows

        write_atomically(path, fill)
        shutil.rmtree(self._folder)
        return written

    def _spill(self) -> None:
        rows = sorted(self._buffer, key=itemgetter(self._key))
        table, start = pa.Table.from_pylist(rows, schema=self._schema), 0
        for part, some in groupby(rows, key=self._part):
            if part not in self._writers:
                self._writers[part] = pa.ipc.new_file(self._folder / part, self._schema)
            count = sum(1 for _ in some)
            self._writers[part].write_table(table.slice(start, count))
            start += count
        self._buffer.clear()

    def _part(self, row: Mapping[str, Any]) -> str:
        return f"{int(row[self._key][:2], 16) * _PARTS // 256:02x}"

    def _batches(self) -> Iterator[pa.Table]:
        """All rows, ordered, `BATCH` at a time: row groups as small as the parts would make a file slow to read."""
        held = self._schema.empty_table()
        for part in sorted(self._writers):
            for rows in self._ordered(self._folder / part):
                held = pa.concat_tables([held, rows])
                if held.num_rows >= BATCH:
                    yield held.slice(0, BATCH).combine_chunks()
                    held = held.slice(BATCH)
        if held.num_rows:
            yield held.combine_chunks()

    def _ordered(self, path: Path) -> Iterator[pa.Table]:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        order = pc.sort_indices(table, sort_keys=[(self._key, "ascending")])
        keys = table[self._key].combine_chunks().take(order)
        if len(keys) > 1:
            fresh = pc.not_equal(keys[1:], keys[:-1])
            order = order.filter(pa.concat_arrays([pa.array([True]), fresh]))
        for start in range(0, len(order), BATCH):
            yield table.take(order[start : start + BATCH])
