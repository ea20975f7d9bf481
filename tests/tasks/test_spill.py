"""Rows come out ordered, each once, however they went in."""

from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.spill import SortedTable

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.int32())])


@settings(max_examples=20)
@given(numbers=st.lists(st.integers(0, 300), max_size=300), buffer=st.sampled_from([1, 7, 1000]))
def test_rows_are_ordered_and_unique(tmp_path_factory: pytest.TempPathFactory, numbers: list[int], buffer: int) -> None:
    folder = tmp_path_factory.mktemp("spill")
    keys = {number: sha256(str(number).encode()).hexdigest() for number in numbers}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.spill._BUFFER", buffer)
        patch.setattr("tasks.spill.BATCH", 2)  # of the five or so rows of a part
        table = SortedTable(folder / "unsorted", SCHEMA, "key")
        for number in numbers:
            table.add([{"key": keys[number], "value": number}])
        written = table.write(folder / "out.parquet")
    expected = sorted((key, number) for number, key in keys.items())
    found = pq.read_table(folder / "out.parquet")
    assert found.schema == SCHEMA
    assert list(zip(found["key"].to_pylist(), found["value"].to_pylist(), strict=True)) == expected
    assert written == len(expected)
    assert pq.ParquetFile(folder / "out.parquet").num_row_groups == (written + 1) // 2
    assert [path.name for path in folder.iterdir()] == ["out.parquet"]


def test_what_an_interrupted_run_left_is_thrown_away(tmp_path: Path) -> None:
    left = SortedTable(tmp_path / "unsorted", SCHEMA, "key")
    left.add([{"key": "0" * 64, "value": 1}] * 5000)
    again = SortedTable(tmp_path / "unsorted", SCHEMA, "key")
    again.add([{"key": "1" * 64, "value": 2}])
    assert again.write(tmp_path / "out.parquet") == 1
