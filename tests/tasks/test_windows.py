"""The windows stage: figures that can be added up by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from data.artifact import Artifact, Counts, read_table, seal, write_table
from data.schemas import PAIRS, RANKING
from data.windows import Window
from tasks.sample import SampleConfig, sample
from tasks.windows import SHOWN, WINDOWS, WindowsConfig, windows


def a_ranking(folder: Path, lists: dict[str, list[tuple[str, float]]], depth: int = 100, unranked: int = 0) -> Artifact:
    rows = [
        {"reference_id": name, "rank": at, "candidate_id": candidate, "score": score}
        for name in sorted(lists)
        for at, (candidate, score) in enumerate(lists[name], 1)
    ]
    write_table(folder / "ranking.parquet", pa.Table.from_pylist(rows, schema=RANKING), RANKING)
    dropped = {"not_drawn": unranked} if unranked else {}
    counts = Counts(read=len(lists) + unranked, kept=len(lists), dropped=dropped, written=len(rows))
    return seal(folder, counts, stage="rank", config={"depth": depth})


def compare(
    folder: Path, ranking: Artifact, **config: Any
) -> tuple[Counts, list[dict[str, Any]], list[dict[str, Any]]]:
    folder.mkdir(exist_ok=True)
    counts = windows.fn(folder, WindowsConfig.model_validate(config), ranking)
    tables = read_table(folder / "windows.parquet", WINDOWS), read_table(folder / "shown.parquet", SHOWN)
    return counts, tables[0].to_pylist(), tables[1].to_pylist()


LISTS = {
    "a": [("x", 0.99), ("y", 0.9), ("z", 0.8)],
    "b": [("x", 0.97), ("z", 0.7), ("y", 0.6)],
    "c": [("y", 0.5)],
}


def test_each_window_is_summed_up(tmp_path: Path) -> None:
    ranking = a_ranking(tmp_path / "rank", LISTS, unranked=2)
    counts, table, _ = compare(tmp_path / "out", ranking, windows=["1-1", "2-3", "score 0.65-0.85"])
    first, second, band = table
    # Rank 1: x, x, y with 0.99, 0.97, 0.5. Two of three above 0.96; x drawn twice: one draw of three repeats.
    assert (first["window"], first["references"], first["candidates"]) == ("ranks 1 to 1", 3, 3)
    assert first["score_mean"] == pytest.approx((0.99 + 0.97 + 0.5) / 3)
    assert first["near_duplicates"] == pytest.approx(2 / 3)
    assert (first["targets"], first["most_drawn"]) == (2, 2)
    assert first["repeated"] == pytest.approx(1 / 3)
    # Ranks 2 and 3: only a and b reach them, with 0.9, 0.8, 0.7, 0.6.
    assert (second["references"], second["candidates"], second["near_duplicates"]) == (2, 4, 0)
    assert second["score_mean"] == pytest.approx(0.75)
    assert 0.6 <= second["score_5"] < second["score_95"] <= 0.9 + 1e-6
    # 0.65 to 0.85: z of a and z of b.
    assert (band["references"], band["candidates"], band["targets"], band["most_drawn"]) == (2, 2, 1, 2)
    assert all(row["note"] is None for row in table)
    assert (counts.read, counts.kept, counts.dropped, counts.written) == (3, 3, {}, 3)


def test_windows_that_cannot_be_sampled_are_listed_with_the_reason(tmp_path: Path) -> None:
    ranking = a_ranking(tmp_path / "rank", LISTS, depth=3)
    _, table, _ = compare(tmp_path / "out", ranking, windows=["51-60", "3-3", "score 0.1-0.2"])
    assert [row["references"] for row in table] == [0, 2, 0]
    assert "set rank.depth to at least 60" in table[0]["note"]
    assert table[0]["score_mean"] is table[0]["repeated"] is None
    assert table[2]["note"] == "no reference has a candidate in it"


def test_a_window_draws_what_sample_draws(tmp_path: Path) -> None:
    lists = {f"r{place:02d}": [(f"c{at}", 1 - at / 100) for at in range(9)] for place in range(30)}
    ranking = a_ranking(tmp_path / "rank", lists)
    _, table, shown = compare(tmp_path / "out", ranking, windows=["2-9"], examples=20, seed=3)
    counts = sample.fn(tmp_path / "sample", SampleConfig(low=2, high=9, seed=3), ranking)
    figures = counts.detail["targets"]
    assert isinstance(figures, dict)
    assert (table[0]["targets"], table[0]["most_drawn"]) == (figures["distinct"], figures["most_drawn"])
    pairs = read_table(tmp_path / "sample" / "pairs.parquet", PAIRS).to_pylist()
    sampled = {(row["reference_id"], row["target_id"], row["rank"]) for row in pairs}
    drawn = {(row["reference_id"], row["target_id"], row["rank"]) for row in shown if row["window"]}
    assert len(drawn) == 20
    assert drawn < sampled


def test_examples_show_ranks_as_far_as_the_ranking_goes(tmp_path: Path) -> None:
    lists = {name: [(f"c{at}", 1 - at / 100) for at in range(1, 61)] for name in "abcdef"}
    ranking = a_ranking(tmp_path / "rank", lists)
    counts, table, shown = compare(tmp_path / "out", ranking, references=4, examples=2)
    assert (counts.read, counts.kept, counts.detail["ranked_references"]) == (4, 4, 6)  # it looks at four of six
    assert [row["references"] for row in table] == [4, 4, 4, 0]  # nobody's ranking reaches 91 to 100
    of_one = [row for row in shown if row["reference_id"] == shown[0]["reference_id"]]
    assert [(row["rank"], row["target_id"]) for row in of_one if row["window"] is None] == [
        (1, "c1"), (10, "c10"), (55, "c55"),
    ]  # fmt: skip
    assert [row["window"] for row in of_one[3:]] == ["ranks 1 to 10", "ranks 11 to 20", "ranks 51 to 60"]
    assert len({row["reference_id"] for row in shown}) == 2
    assert compare(tmp_path / "none", ranking, examples=0)[2] == []


def test_a_window_given_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="ranks 51 to 60: given twice"):
        WindowsConfig(windows=(Window(), Window(low=51, high=60)))


def test_windows_are_written_on_the_command_line(tmp_path: Path) -> None:
    from flows.overrides import configure, field_values

    found = configure(WindowsConfig, ["windows=1-10,percentile 0-1"])
    assert found.windows == (Window(low=1, high=10), Window(by="percentile", low=0, high=1))
    assert configure(WindowsConfig, list(field_values(found))) == found
