"""Which mode `auto` comes to, and that it stays the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.artifact import Artifact
from data.tokens import write_tokens
from models import pace as measuring
from models.pace import Pace
from tasks import rank_mode
from tasks.rank import RankConfig, rank_facts
from tasks.rank_mode import choose_index, choose_mode, duration, way
from tests.tasks.small_artifacts import sealed

HUNDRED_THOUSAND = (100_000, 32, 256)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A machine that needs 1 microsecond a score or pair; the list grows with every measurement."""
    calls: list[int] = []

    def pretend(tokens: int, dim: int, depth: int) -> Pace:
        calls.append(depth)
        return Pace("float32", score=1e-6, pair=1e-6, settle=0.0)

    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(measuring, "measured_pace", pretend)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    return calls


def test_a_small_pool_is_exact_without_measuring(measured: list[int]) -> None:
    assert choose_mode(20_000, (20_000, 32, 256), 100, 0.001, 300).mode == "exact"
    assert measured == []


def test_a_large_pool_goes_by_time_and_is_measured_once(measured: list[int]) -> None:
    # 5e9 pairs at a microsecond and a quarter more: 1.7 hours.
    assert choose_mode(100_000, HUNDRED_THOUSAND, 100, 1.8, 300).mode == "exact"
    assert choose_mode(100_000, HUNDRED_THOUSAND, 100, 1.7, 300).mode == "candidates"
    assert choose_mode(20_000, HUNDRED_THOUSAND, 100, 1.7, 300).mode == "exact"
    assert measured == [100]


def test_as_few_references_as_an_audit_has_are_exact(measured: list[int]) -> None:
    assert choose_mode(300, (10**9, 32, 256), 100, 0.001, 300).mode == "exact"
    assert measured == []


def test_the_index_goes_by_number_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_mode.os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 4_000_000)  # 16 GB
    assert choose_index(999_999, 256) == "flat"  # 1 GB
    assert choose_index(3_000_000, 256) == "ivf"  # 3 GB
    assert choose_index(30_000_000, 256) == "pq"


def _tokens(folder: Path) -> Artifact:
    write_tokens(folder / "encode" / "tokens.arrow", ["a", "b"], np.ones((2, 3, 4), dtype=np.float16))
    return sealed(folder / "encode", "encode", 2)


def test_the_key_has_what_auto_came_to(tmp_path: Path) -> None:
    tokens = _tokens(tmp_path)
    assert rank_facts(RankConfig(), tokens) == {"mode": "exact"}
    forced = RankConfig.model_validate({"mode": "candidates", "candidates": {"index": "ivf"}})
    assert rank_facts(forced, tokens) == {"mode": "candidates", "index": "ivf"}
    assert rank_facts(RankConfig(mode="candidates"), tokens) == {"mode": "candidates", "index": "flat"}


def test_the_way_of_a_first_pass_in_words() -> None:
    assert way(torch.int16) == "by the native kernel"
    assert way(torch.bfloat16) == "by torch in bfloat16"


def test_a_config_takes_the_limit_of_the_sample_unless_it_has_its_own() -> None:
    assert RankConfig().limited(500, 3) == RankConfig(references=500, seed=3)
    assert RankConfig(references=9).limited(500, 3) == RankConfig(references=9)
    assert RankConfig().limited(None, 3) == RankConfig()


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (40, "40 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
