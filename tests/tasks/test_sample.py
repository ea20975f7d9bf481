"""The sample stage: windows, draws and what is dropped."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from data.artifact import Artifact, Counts, read_table, seal, write_table
from data.draws import chosen_references
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


def _scored(folder: Path, lists: dict[str, dict[str, float]], depth: int = 100, images: int | None = None) -> Artifact:
    """References with candidates and their scores, given in falling order; `images` in the pool, if not the lists'."""
    rows = [
        {"reference_id": name, "rank": at, "candidate_id": candidate, "score": score}
        for name in sorted(lists)
        for at, (candidate, score) in enumerate(lists[name].items(), 1)
    ]
    write_table(folder / "ranking.parquet", pa.Table.from_pylist(rows, schema=RANKING), RANKING)
    pool = images or len(lists)
    dropped = {"not_asked_for": pool - len(lists)} if pool > len(lists) else {}
    counts = Counts(read=pool, kept=len(lists), dropped=dropped, written=len(rows))
    return seal(folder, counts, stage="rank", config={"depth": depth})


def _draw(folder: Path, ranking: Artifact, **config: Any) -> tuple[Counts, list[dict[str, object]]]:
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
    assert counts.detail == {"window": [51, 60], "by": "rank"}


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
    assert counts.detail["targets"] == {"distinct": 1, "most_drawn": 2, "drawn_times": [[2, 1]]}


def test_a_percentile_window_is_the_ranks_of_its_pool(tmp_path: Path) -> None:
    # 10 candidates each: 20 % to 40 % of them are the ranks 3 and 4.
    ranking = _ranking(tmp_path / "rank", {f"r{place:02d}": 10 for place in range(11)})
    counts, rows = _draw(tmp_path / "out", ranking, by="percentile", low=20, high=40)
    assert {row["rank"] for row in rows} == {3, 4}
    assert counts.detail["window"] == [20, 40]
    assert counts.detail["ranks"] == [3, 4]


def test_a_percentile_below_the_depth_of_the_ranking_says_how_deep_to_rank(tmp_path: Path) -> None:
    ranking = _ranking(tmp_path / "rank", {f"r{place:02d}": 3 for place in range(11)}, depth=3)
    with pytest.raises(
        ValueError, match=r"percentiles 20 to 40 ends at rank 4.*keeps only 3.*rank\.depth to at least 4"
    ):
        _draw(tmp_path / "out", ranking, by="percentile", low=20, high=40)


BANDS = {
    "a": {"x": 0.95, "y": 0.85, "z": 0.5},  # y is in the band
    "b": {"x": 0.95, "y": 0.92, "z": 0.91},  # the ranking ends above the band
    "c": {"x": 0.7, "y": 0.6, "z": 0.5},  # nothing in it, as what follows scores less
    "d": {"x": 0.99, "y": 0.89, "z": 0.88},  # y and z, and perhaps more below
}


def test_a_band_of_scores_draws_from_what_the_ranking_shows_of_it(tmp_path: Path) -> None:
    ranking = _scored(tmp_path / "rank", BANDS, depth=3, images=9)
    counts, rows = _draw(tmp_path / "out", ranking, by="score", low=0.8, high=0.9)
    drawn = {row["reference_id"]: row["target_id"] for row in rows}
    assert drawn["a"] == "y"
    assert drawn["d"] in ("y", "z")
    assert set(drawn) == {"a", "d"}
    assert counts.dropped == {"not_ranked": 5, "nothing_in_window": 1, "ranking_too_short": 1}
    assert counts.detail["window_goes_on_below_the_ranking"] == 1


def test_a_whole_ranking_ends_where_the_pool_does(tmp_path: Path) -> None:
    # Three candidates are all there are, so that nothing below them could be in the band.
    ranking = _scored(tmp_path / "rank", BANDS)
    counts, _ = _draw(tmp_path / "out", ranking, by="score", low=0.8, high=0.9)
    assert counts.dropped == {"nothing_in_window": 2}
    assert counts.detail["window_goes_on_below_the_ranking"] == 0


def test_near_duplicates_and_low_scores_are_passed_over_and_counted(tmp_path: Path) -> None:
    ranking = _scored(tmp_path / "rank", BANDS)
    counts, rows = _draw(tmp_path / "out", ranking, low=1, high=2, near_duplicate=0.94, least_score=0.8)
    # a: x is too near, y is left. b: x is too near, y left. c: x and y are too low. d: x is too near, y left.
    assert {(row["reference_id"], row["target_id"]) for row in rows} == {("a", "y"), ("b", "y"), ("d", "y")}
    assert counts.dropped == {"score_too_low": 1}
    assert counts.detail["candidates_passed_over"] == {"near_duplicate": 3, "score_too_low": 2}
    counts, rows = _draw(tmp_path / "2", ranking, low=1, high=1, near_duplicate=0.94)
    assert (len(rows), counts.dropped) == (1, {"near_duplicate": 3})


def test_the_ends_of_a_filter_are_kept(tmp_path: Path) -> None:
    ranking = _scored(tmp_path / "rank", {"a": {"x": 0.8}, "b": {"x": 0.9}})
    counts, _ = _draw(tmp_path / "out", ranking, low=1, high=1, near_duplicate=0.9, least_score=0.8)
    assert counts.kept == 2


def test_no_image_is_a_target_more_often_than_allowed(tmp_path: Path) -> None:
    # 30 references see the same six candidates: with at most 4 draws each, 24 get one and 6 none.
    lists = {f"r{place:02d}": {f"c{at}": 1 - at / 100 for at in range(6)} for place in range(30)}
    ranking = _scored(tmp_path / "rank", lists, images=40)
    counts, rows = _draw(tmp_path / "out", ranking, low=1, high=6, most_drawn=4)
    assert set(Counter(row["target_id"] for row in rows).values()) == {4}
    assert (counts.kept, counts.dropped) == (24, {"not_ranked": 10, "targets_drawn_too_often": 6})
    assert counts.detail["targets"] == {"distinct": 6, "most_drawn": 4, "drawn_times": [[4, 6]]}
    assert _draw(tmp_path / "2", ranking, low=1, high=6, most_drawn=4)[1] == rows
    # Who goes without depends on the seed, not on the alphabet.
    lost = [
        set(lists)
        - {
            row["reference_id"]
            for row in _draw(tmp_path / str(seed), ranking, low=1, high=6, most_drawn=4, seed=seed)[1]
        }
        for seed in (10, 11, 12)
    ]
    assert len(set(map(frozenset, lost))) == 3
    assert all(min(names) < "r20" for names in lost)


def test_a_cap_that_binds_nobody_changes_nothing(tmp_path: Path) -> None:
    ranking = _ranking(tmp_path / "rank", {f"r{place:02d}": 9 for place in range(20)})
    plain = _draw(tmp_path / "1", ranking, low=4, high=6)[1]
    assert _draw(tmp_path / "2", ranking, low=4, high=6, most_drawn=20)[1] == plain


def test_a_ranking_of_the_chosen_references_gives_the_pairs_of_a_whole_one(tmp_path: Path) -> None:
    names = [f"r{place:02d}" for place in range(40)]
    lists = {name: {f"c{at}": 1 - at / 100 for at in range(9)} for name in names}
    chosen = chosen_references(names, 15, 3)
    whole = _draw(tmp_path / "1", _scored(tmp_path / "w", lists), low=4, high=6, limit=15, seed=3)
    part = _scored(tmp_path / "p", {name: lists[name] for name in chosen}, images=40)
    assert _draw(tmp_path / "2", part, low=4, high=6, limit=15, seed=3) == whole
    assert whole[0].dropped == {"over_limit": 25}


def test_pairs_say_which_view_found_them(tmp_path: Path) -> None:
    ranking = _ranking(tmp_path / "rank", {"a": 3})
    tokens, captions = (
        _draw(tmp_path / view, ranking, low=1, high=1, view=view)[1][0] for view in ("tokens", "captions")
    )
    assert (tokens["view"], captions["view"]) == ("tokens", "captions")
    assert tokens["target_id"] == captions["target_id"]
    assert tokens["pair_id"] != captions["pair_id"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 60, "high": 51}, "need 1 <= low <= high, got low=60, high=51"),
        ({"least_score": 0.9, "near_duplicate": 0.8}, "no score is at least least_score=0.9 and at most"),
        ({"by": "score", "low": 0.8, "high": 0.9, "near_duplicate": 0.95}, "have to lie within the window of 0.8"),
        ({"near_duplicate": 1.5}, "less than or equal to 1"),
        ({"most_drawn": 0}, "greater than 0"),
        ({"view": " a"}, "a view's name is a word, got ' a'"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SampleConfig(**fields)
