"""Ranking by candidates: the audit, and that what it vouches for is the exact ranking."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bench.synthetic import Kind, synthetic
from data.artifact import Artifact, read_table
from data.schemas import RANKING
from data.tokens import write_tokens
from tasks import rank_candidates
from tasks.rank import RankConfig, rank
from tasks.rank_candidates import CandidateConfig
from tests.tasks.small_artifacts import sealed

DEPTH = 4
IMAGES = 300


def _tokens(folder: Path, kind: Kind, tokens: int = 4, masked: bool = False) -> Artifact:
    array, mask = synthetic(IMAGES, tokens, 16, kind), None
    if masked:
        mask = np.random.default_rng(0).random((IMAGES, tokens)) < 0.6
        mask[:, 0] = True
        array[~mask] = np.nan
    write_tokens(folder / "encode" / "tokens.arrow", [f"{place:04d}" for place in range(IMAGES)], array, mask)
    return sealed(folder / "encode", "encode", IMAGES)


def _config(**more: object) -> RankConfig:
    """Ask for as little as pools of this size allow: a fifth of the images is not yet near all that are near."""
    candidates = {"count": 60, "dim": 16, "centroids": 64, "audit": 24, "agreement": 0.1, "confidence": 0.9}
    nested = more.pop("candidates", {})
    assert isinstance(nested, dict)
    return RankConfig.model_validate({"depth": DEPTH, "mode": "candidates", "candidates": candidates | nested, **more})


def _rows(folder: Path) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in read_table(folder / "ranking.parquet", RANKING).to_pylist()]


def _share_of_whole_rankings(found: list[tuple[object, ...]], exact: list[tuple[object, ...]]) -> float:
    same = [found[at : at + DEPTH] == exact[at : at + DEPTH] for at in range(0, len(exact), DEPTH)]
    return sum(same) / len(same)


@pytest.mark.parametrize(
    ("kind", "index", "direction", "masked"),
    [
        ("aligned", "flat", "reference", False),
        ("scattered", "ivf", "candidate", True),
        ("scattered", "pq", "reference", False),
    ],
)
def test_what_the_audit_says_holds_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, index: str, direction: str, masked: bool
) -> None:
    monkeypatch.setattr(rank_candidates, "SHARD", 130)
    tokens = _tokens(tmp_path, kind, masked=masked)
    counts = rank.fn(tmp_path / "out", _config(direction=direction, candidates={"index": index}), tokens)
    exact = RankConfig.model_validate({"depth": DEPTH, "mode": "exact", "direction": direction})
    rank.fn(tmp_path / "exact", exact, tokens)
    detail = counts.detail
    assert detail["mode"] == "candidates"
    assert detail["index"] == index
    assert detail["audited"] == 24
    claimed = detail["agreement_at_least"]
    assert isinstance(claimed, float)
    assert 0.1 <= claimed < 1
    found, expected = _rows(tmp_path / "out"), _rows(tmp_path / "exact")
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert _share_of_whole_rankings(found, expected) >= claimed
    assert (tmp_path / "out" / "audit.json").exists()
    assert not (tmp_path / "out" / "parts").exists()


def test_too_few_candidates_are_doubled_and_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(candidates={"count": DEPTH, "sources": "pooled", "dim": 2, "agreement": 0.9})
    counts = rank.fn(tmp_path / "out", config, _tokens(tmp_path, "aligned"))
    said = capsys.readouterr().err
    raised = counts.detail["raised_from"]
    assert isinstance(raised, list)
    assert raised[:2] == [4, 8]
    assert "with 4 candidates per source" in said
    assert "90.00% is asked" in said


def test_where_no_number_of_candidates_will_do_the_ranking_is_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = _tokens(tmp_path, "scattered")
    # One dimension of pooled vectors and lists of up to 64 of 300 images.
    config = _config(candidates={"count": 16, "sources": "pooled", "dim": 1, "agreement": 0.9})
    counts = rank.fn(tmp_path / "out", config, tokens)
    rank.fn(tmp_path / "exact", RankConfig(depth=DEPTH), tokens)
    assert counts.detail["mode"] == "exact"
    assert (counts.detail["raised_from"], counts.detail["count"]) == ([16, 32], 64)
    assert _rows(tmp_path / "out") == _rows(tmp_path / "exact")
    assert "the audit asks for more than 64 candidates" in capsys.readouterr().err


def test_more_candidates_than_a_quarter_of_the_pool_are_not_tried(tmp_path: Path) -> None:
    counts = rank.fn(tmp_path / "out", _config(candidates={"count": 76}), _tokens(tmp_path, "aligned"))
    assert (counts.detail["mode"], counts.detail["audited"]) == ("exact", 0)


def test_an_interrupted_run_keeps_its_audit_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_candidates, "SHARD", 100)
    tokens = _tokens(tmp_path, "aligned")
    rank.fn(tmp_path / "whole", _config(references=250), tokens)
    table, calls = rank_candidates.ranking_table, []

    def dies_at_the_second(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return table(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(rank_candidates, "ranking_table", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        rank.fn(tmp_path / "out", _config(references=250), tokens)
    monkeypatch.setattr(rank_candidates, "_audit", None)  # it is not to be called again
    counts = rank.fn(tmp_path / "out", _config(references=250), tokens)
    assert len(calls) == 4
    assert _rows(tmp_path / "out") == _rows(tmp_path / "whole")
    assert (counts.kept, counts.dropped) == (250, {"over_limit": 50})


def test_one_token_an_image_needs_no_centroids(tmp_path: Path) -> None:
    config = _config(candidates={"dim": 16})
    counts = rank.fn(tmp_path / "out", config, _tokens(tmp_path, "aligned", tokens=1))
    # The pooled vector is the token itself, so every candidate list holds the nearest images.
    assert (counts.detail["agreement"], counts.detail["raised_from"]) == (1.0, [])
    assert counts.detail["found_per_reference"] == 60


def test_an_audit_that_cannot_show_what_is_asked_is_refused() -> None:
    CandidateConfig(audit=299)  # 0.99^299 = 0.0495
    with pytest.raises(ValidationError, match=r"set candidates\.audit to at least 299"):
        CandidateConfig(audit=298)
    with pytest.raises(ValidationError, match=r"candidates\.count is 10, but depth keeps 100"):
        RankConfig.model_validate({"candidates": {"count": 10}})
