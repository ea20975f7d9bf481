"""The rank stage: rows, order, and that it continues after a kill."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data.artifact import Artifact, read_table
from data.schemas import RANKING
from data.tokens import write_tokens
from models import sweep
from models.ranking import Ranked
from tasks import rank_exact, room
from tasks.rank import RankConfig, rank
from tests.models.reference import score
from tests.tasks.small_artifacts import sealed

PER_IMAGE = 3 * 8 * 4
"""Bytes of one image's tokens, as `_tokens` makes them, in float32."""


def _tokens(folder: Path, count: int, seed: int = 0) -> tuple[Artifact, np.ndarray]:
    array = np.random.default_rng(seed).normal(size=(count, 3, 8)).astype(np.float16)
    write_tokens(folder / "encode" / "tokens.arrow", [f"{place:04d}" for place in range(count)], array)
    return sealed(folder / "encode", "encode", count), array


@pytest.mark.parametrize("direction", ["reference", "candidate"])
def test_every_image_has_its_nearest_others_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    monkeypatch.setattr(sweep, "PANEL_BYTES", 11 * PER_IMAGE)
    tokens, array = _tokens(tmp_path, 30)
    counts = rank.fn(tmp_path / "out", RankConfig.model_validate({"depth": 7, "direction": direction}), tokens)

    expected = []
    for reference in range(30):
        others = [other for other in range(30) if other != reference]
        pairs = [(reference, other) if direction == "reference" else (other, reference) for other in others]
        scored = sorted((-float(score(array[a], array[b])), other) for (a, b), other in zip(pairs, others, strict=True))
        expected += [(f"{reference:04d}", at, f"{other:04d}", -s) for at, (s, other) in enumerate(scored[:7], start=1)]
    rows = read_table(tmp_path / "out" / "ranking.parquet", RANKING).to_pylist()
    assert [tuple(row.values()) for row in rows] == expected
    assert (counts.read, counts.kept, counts.written, counts.dropped) == (30, 30, 210, {})
    first = [row["score"] for row in rows if row["rank"] == 1]
    assert counts.detail["direction"] == direction
    assert counts.detail["mean_score_at_rank"] == {"1": round(sum(first) / 30, 4)}
    assert not (tmp_path / "out" / "parts").exists()


def test_an_interrupted_run_continues_with_the_missing_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PANEL_BYTES", 10 * PER_IMAGE)
    tokens, _ = _tokens(tmp_path, 35)
    rank.fn(tmp_path / "whole", RankConfig(depth=5), tokens)
    done: list[tuple[int, int]] = []
    table = rank_exact.ranking_table

    def dies_at_the_third(ids: list[str], rows: np.ndarray, ranked: Ranked) -> object:
        # By now the shortlists of the later images know the panel, and must not be told again.
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((int(rows[0]), int(rows[-1])))
        return table(ids, rows, ranked)

    monkeypatch.setattr(rank_exact, "ranking_table", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        rank.fn(tmp_path / "out", RankConfig(depth=5), tokens)
    done.clear()
    counts = rank.fn(tmp_path / "out", RankConfig(depth=5), tokens)

    assert done == [(20, 29), (30, 34)]
    assert counts.read == 35
    whole, again = (read_table(tmp_path / name / "ranking.parquet", RANKING) for name in ("whole", "out"))
    assert again.equals(whole)
    # A kill between the last rename and the return leaves nothing to do.
    done.clear()
    assert rank.fn(tmp_path / "out", RankConfig(depth=5), tokens) == counts
    assert done == []


def test_one_image_is_counted_as_without_candidate(tmp_path: Path) -> None:
    tokens, _ = _tokens(tmp_path, 1)
    counts = rank.fn(tmp_path / "out", RankConfig(), tokens)
    assert (counts.read, counts.kept, counts.dropped, counts.written) == (1, 0, {"no_candidate": 1}, 0)
    assert len(read_table(tmp_path / "out" / "ranking.parquet", RANKING)) == 0


def test_a_small_pool_gives_short_rankings(tmp_path: Path) -> None:
    tokens, _ = _tokens(tmp_path, 4)
    assert rank.fn(tmp_path / "out", RankConfig(depth=100), tokens).written == 4 * 3


def test_a_nan_token_names_its_image(tmp_path: Path) -> None:
    array = np.ones((3, 2, 4), dtype=np.float16)
    array[1, 1, 3] = np.nan
    write_tokens(tmp_path / "encode" / "tokens.arrow", ["a.jpg", "b.jpg", "c.jpg"], array)
    with pytest.raises(ValueError, match=r"image 'b\.jpg': token 1 has a value that is NaN"):
        rank.fn(tmp_path / "out", RankConfig(), sealed(tmp_path / "encode", "encode", 3))


def test_a_misspelt_direction_is_refused() -> None:
    with pytest.raises(ValidationError, match="reference"):
        RankConfig.model_validate({"direction": "forward"})


def test_only_the_references_asked_for_are_ranked_and_as_in_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "PANEL_BYTES", 4 * PER_IMAGE)
    tokens, _ = _tokens(tmp_path, 30)
    rank.fn(tmp_path / "whole", RankConfig(depth=5), tokens)
    whole = read_table(tmp_path / "whole" / "ranking.parquet", RANKING).to_pylist()
    for asked in (9, 25):  # one against all, and a sweep of which some rows are kept
        counts = rank.fn(tmp_path / f"some-{asked}", RankConfig(depth=5, references=asked), tokens)
        some = read_table(tmp_path / f"some-{asked}" / "ranking.parquet", RANKING).to_pylist()
        chosen = {row["reference_id"] for row in some}
        assert some == [row for row in whole if row["reference_id"] in chosen]
        assert (counts.read, counts.kept, counts.dropped) == (30, asked, {"over_limit": 30 - asked})
        assert len(chosen) == asked


def test_an_interrupted_run_of_some_references_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PANEL_BYTES", 4 * PER_IMAGE)
    tokens, _ = _tokens(tmp_path, 30)
    config = RankConfig(depth=5, references=9)
    rank.fn(tmp_path / "whole", config, tokens)
    calls, table = [], rank_exact.ranking_table

    def dies_at_the_second(ids: list[str], rows: np.ndarray, ranked: Ranked) -> object:
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return table(ids, rows, ranked)

    monkeypatch.setattr(rank_exact, "ranking_table", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        rank.fn(tmp_path / "out", config, tokens)
    rank.fn(tmp_path / "out", config, tokens)
    assert calls == [4, 4, 4, 1]  # the first part is not done over
    whole, again = (read_table(tmp_path / name / "ranking.parquet", RANKING) for name in ("whole", "out"))
    assert again.equals(whole)


def test_images_of_unequal_token_counts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    array, mask = random.normal(size=(12, 3, 8)).astype(np.float16), random.random((12, 3)) < 0.5
    mask[:, 1] = True
    array[~mask] = np.nan
    write_tokens(tmp_path / "encode" / "tokens.arrow", [f"{place:04d}" for place in range(12)], array, mask)
    rank.fn(tmp_path / "out", RankConfig(depth=11), sealed(tmp_path / "encode", "encode", 12))
    for row in read_table(tmp_path / "out" / "ranking.parquet", RANKING).to_pylist():
        one, other = int(row["reference_id"]), int(row["candidate_id"])
        assert row["score"] == score(array[one][mask[one]], array[other][mask[other]])


def test_one_embedding_an_image_is_ranked_by_its_cosine(tmp_path: Path) -> None:
    array = np.array([[[1, 0]], [[1, 0.5]], [[0, 2]], [[-1, 0]]], dtype=np.float16)
    write_tokens(tmp_path / "encode" / "tokens.arrow", list("abcd"), array)
    rank.fn(tmp_path / "out", RankConfig(depth=3), sealed(tmp_path / "encode", "encode", 4))
    rows = read_table(tmp_path / "out" / "ranking.parquet", RANKING).to_pylist()
    # Cosines of a: b 1 / sqrt(1.25), c 0, d -1.
    assert [(row["candidate_id"], round(row["score"], 4)) for row in rows[:3]] == [("b", 0.8944), ("c", 0), ("d", -1)]


@pytest.mark.parametrize("references", [None, 5])
def test_a_panel_that_does_not_fit_is_refused(
    references: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, _ = _tokens(tmp_path, 30)
    monkeypatch.setattr(room, "available_memory", lambda: 1000)
    panel = references or 30
    with pytest.raises(MemoryError, match=f"rank: a panel of {panel} of 30 images needs .* 1.0 kB available"):
        rank.fn(tmp_path / "out", RankConfig(depth=5, references=references), tokens)
