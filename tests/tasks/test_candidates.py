"""Reading a ranking by reference."""

from pathlib import Path

import pyarrow as pa
import pytest

from data.artifact import Artifact, Counts, seal, write_table
from data.schemas import RANKING
from tasks import candidates
from tasks.candidates import by_reference, references


def ranking_of(folder: Path, rows: list[tuple[str, int, str, float]]) -> Artifact:
    table = pa.Table.from_pylist([dict(zip(RANKING.names, row, strict=True)) for row in rows], schema=RANKING)
    write_table(folder / "ranking.parquet", table, RANKING)
    return seal(folder, Counts(read=9, kept=9, written=len(rows)), stage="rank", config={"depth": 5})


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_lists_are_whole_however_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(candidates, "ROWS", rows)
    lengths = {"a": 3, "b": 1, "c": 1, "d": 5, "e": 2}
    listed = [(name, at, f"{name}{at}", 1 - at / 10) for name, count in lengths.items() for at in range(1, count + 1)]
    ranking = ranking_of(tmp_path, listed)
    found = {one.reference_id: one for one in by_reference(ranking)}
    assert list(found) == references(ranking) == list(lengths)
    assert {name: one.ids.to_pylist() for name, one in found.items()} == {
        name: [f"{name}{at}" for at in range(1, count + 1)] for name, count in lengths.items()
    }
    assert found["e"].scores.tolist() == pytest.approx([0.9, 0.8])


def test_an_empty_ranking_has_no_reference(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, [])
    assert list(by_reference(ranking)) == []
    assert references(ranking) == []


@pytest.mark.parametrize(
    "rows",
    [
        [("a", 1, "x", 0.9), ("a", 3, "y", 0.8)],
        [("a", 2, "x", 0.9)],
        [("a", 2, "x", 0.9), ("a", 1, "y", 0.8)],
        [("a", 1, "x", 0.9), ("b", 2, "y", 0.8)],
    ],
)
def test_a_file_out_of_order_is_refused(tmp_path: Path, rows: list[tuple[str, int, str, float]]) -> None:
    with pytest.raises(ValueError, match="rank again"):
        list(by_reference(ranking_of(tmp_path, rows)))


def test_another_schema_is_refused(tmp_path: Path) -> None:
    table = pa.table({"reference_id": ["a"]})
    write_table(tmp_path / "ranking.parquet", table, table.schema)
    other = seal(tmp_path, Counts(read=1, kept=1, written=1), stage="rank")
    for read in (lambda: list(by_reference(other)), lambda: references(other)):
        with pytest.raises(ValueError, match="another schema than expected; run rank again"):
            read()
