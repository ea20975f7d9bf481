"""The sample stage: windows, draws and what is dropped."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.artifact import Artifact, Counts, read_table, seal, write_table
from data.schemas import PAIRS, RANKING
from tasks.sample import SampleConfig, pair_id, sample


def _ranking(folder: Path, lengths: dict[str, int], depth: int = 100, alone: int = 0) -> Artifact:
    """References with rankings of given lengths; the candidate at rank r is c<r>, its score 1 - r/1000."""
    rows = [
        {"reference_id": name, "rank": at, "candidate_id": f"c{at}", "score": 1 - at / 1000}
        for name in sorted(lengths)
        for at in range(1, lengths[name] + 1)
    ]
    write_table(folder / "ranking.parquet", pa.Table.from_pylist(rows, schema=RANKING), RANKING)
    dropped = {"no_candidate": alone} if alone else {}
    counts = Counts(read=len(lengths) + alone, kept=len(lengths), dropped=dropped, written=len(rows))
    return seal(folder, counts, stage="rank", config={"depth": depth})


def _draw(folder: Path, ranking: Artifact, **config: int) -> tuple[Counts, list[dict[str, object]]]:
    counts = sample.fn(folder, SampleConfig.model_validate(config), ranking)
    return counts, read_table(folder / "pairs.parquet", PAIRS).to_pylist()


def test_the_default_window_is_the_papers() -> None:
    assert (SampleConfig().low, SampleConfig().high) == (51, 60)


def test_one_pair_per_reference_from_the_inclusive_window(tmp_path: Path) -> None:
    ranking = _ranking(tmp_path / "rank", {f"r{place:03d}": 9 for place in range(300)})
    counts, rows = _draw(tmp_path / "out", ranking, low=4, high=6)
    assert (counts.read, counts.kept, counts.written, counts.dropped) == (300, 300, 300, {})
    assert sorted(str(row["reference_id"]) for row in rows) == [f"r{place:03d}" for place in range(300)]
    drawn = Counter(row["rank"] for row in rows)
    # 300 draws from three ranks: 100 each, give or take four standard deviations of 8.2.
    assert set(drawn) == {4, 5, 6}
    assert all(67 < count < 133 for count in drawn.values())
    assert all(row["target_id"] == f"c{row['rank']}" for row in rows)
    assert [row["pair_id"] for row in rows] == sorted(str(row["pair_id"]) for row in rows)
    first = rows[0]
    assert first["pair_id"] == pair_id(str(first["reference_id"]), str(first["target_id"]), "tokens")


def test_a_window_of_one_rank_takes_it(tmp_path: Path) -> None:
    _, rows = _draw(tmp_path / "out", _ranking(tmp_path / "rank", {"a": 3, "b": 3}), low=1, high=1)
    assert [(row["rank"], row["target_id"]) for row in rows] == [(1, "c1"), (1, "c1")]


def test_rankings_that_end_before_the_window_are_dropped_and_counted(tmp_path: Path) -> None:
    # "b" reaches rank 5 but not 6: what is left of its window is another window. Two images had no candidate at all.
    ranking = _ranking(tmp_path / "rank", {"a": 3, "b": 5, "c": 6, "d": 9}, alone=2)
    counts, rows = _draw(tmp_path / "out", ranking, low=4, high=6)
    assert sorted(str(row["reference_id"]) for row in rows) == ["c", "d"]
    assert (counts.read, counts.kept, counts.dropped) == (6, 2, {"ranking_too_short": 4})


def test_a_pool_smaller_than_the_window_gives_no_pair(tmp_path: Path) -> None:
    counts, rows = _draw(tmp_path / "out", _ranking(tmp_path / "rank", {"a": 2, "b": 2, "c": 2}))
    assert rows == []
    assert counts.dropped == {"ranking_too_short": 3}
    assert counts.detail == {"window": [51, 60]}


def test_a_ranking_cut_off_inside_the_window_is_an_error(tmp_path: Path) -> None:
    ranking = _ranking(tmp_path / "rank", {"a": 55}, depth=55)
    with pytest.raises(ValueError, match=r"keeps only 55 candidates; set rank\.depth to at least 60"):
        _draw(tmp_path / "out", ranking)


def test_another_pool_or_limit_changes_no_other_draw(tmp_path: Path) -> None:
    many = _ranking(tmp_path / "many", {f"r{place:03d}": 70 for place in range(50)})
    few = _ranking(tmp_path / "few", {f"r{place:03d}": 70 for place in range(0, 50, 3)})
    whole = {str(row["reference_id"]): row for row in _draw(tmp_path / "1", many)[1]}
    part = {str(row["reference_id"]): row for row in _draw(tmp_path / "2", few)[1]}
    counts, rows = _draw(tmp_path / "3", many, limit=20)
    assert all(whole[name] == row for name, row in part.items())
    assert all(whole[str(row["reference_id"])] == row for row in rows)
    assert (len(rows), counts.dropped) == (20, {"over_limit": 30})
    fewer = {str(row["reference_id"]) for row in _draw(tmp_path / "4", many, limit=5)[1]}
    assert fewer < {str(row["reference_id"]) for row in rows}


def test_another_seed_draws_other_ranks(tmp_path: Path) -> None:
    ranking = _ranking(tmp_path / "rank", {f"r{place:03d}": 60 for place in range(50)})
    one, same, other = (_draw(tmp_path / str(place), ranking, seed=seed)[1] for place, seed in enumerate((0, 0, 1)))
    assert one == same
    assert {row["reference_id"]: row["rank"] for row in one} != {row["reference_id"]: row["rank"] for row in other}


def test_the_scores_are_summed_up_for_the_report(tmp_path: Path) -> None:
    ranking = _ranking(tmp_path / "rank", {"a": 2, "b": 2})
    counts, _ = _draw(tmp_path / "out", ranking, low=2, high=2)
    score = counts.detail["score"]
    assert isinstance(score, dict)
    assert score["mean"] == pytest.approx(0.998, abs=1e-6)  # both at rank 2: 1 - 2/1000
    assert score["min"] == score["max"]
    assert counts.detail["targets"] == {"distinct": 1, "most_drawn": 2}


@given(st.integers(-3, 80), st.integers(-3, 80))
def test_only_windows_in_order_are_accepted(low: int, high: int) -> None:
    if 1 <= low <= high:
        assert SampleConfig(low=low, high=high).high == high
    else:
        with pytest.raises(ValidationError):
            SampleConfig(low=low, high=high)


def test_a_window_out_of_order_says_so() -> None:
    with pytest.raises(ValidationError, match="need 1 <= low <= high, got low=60, high=51"):
        SampleConfig(low=60, high=51)
