"""The two-sided sweep against ranking each image alone."""

import numpy as np
import pytest
import torch

from models import ranking, sweep
from models.ranking import Ranked, Shortlist, TokenSets, top_k
from models.similarity import Direction
from models.sweep import panels, rank_panel
from tests.models.reference import score


def _sets(count: int, masked: bool) -> TokenSets:
    random = np.random.default_rng(0)
    tokens = random.normal(size=(count, 3, 8)).astype(np.float16)
    tokens[count // 2] = tokens[0]  # a duplicate in another panel
    mask = (random.random((count, 3)) < 0.6) | (np.arange(3) == 0) if masked else None
    return TokenSets([f"{place:04d}" for place in range(count)], tokens, mask)


def _swept(sets: TokenSets, k: int, direction: Direction, dtype: torch.dtype) -> Ranked:
    shortlist = Shortlist.empty(len(sets), len(sets), k)
    parts = [rank_panel(sets, panel, shortlist, direction, dtype) for panel in panels(sets)]
    return Ranked(np.concatenate([part.indices for part in parts]), np.concatenate([part.scores for part in parts]))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PANEL_BYTES", 17 * 3 * 8 * 4)
    monkeypatch.setattr(sweep, "STRIP_IMAGES", 7)
    monkeypatch.setattr(ranking, "TILE_COLUMNS", 10)
    monkeypatch.setattr(ranking, "TILE_ROWS", 9)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("direction", ["reference", "candidate"])
def test_a_sweep_ranks_as_each_image_alone_does(direction: Direction, masked: bool, dtype: torch.dtype) -> None:
    sets = _sets(90, masked)
    assert len(panels(sets)) == 6
    found = _swept(sets, 6, direction, dtype)
    expected = top_k(sets, sets, 6, direction, exclude=range(90))
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.scores.view(np.int32), expected.scores.view(np.int32))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("direction", "k"), [("reference", 39), ("reference", 5), ("candidate", 5)])
def test_a_sweep_equals_plain_float64(direction: Direction, k: int, dtype: torch.dtype) -> None:
    sets = _sets(40, masked=False)
    found = _swept(sets, k, direction, dtype)
    for row in range(40):
        pairs = {other: (sets.tokens[row], sets.tokens[other]) for other in range(40) if other != row}
        turn = 1 if direction == "reference" else -1
        scores = {other: float(score(*pair[::turn])) for other, pair in pairs.items()}
        assert found.indices[row, :k].tolist() == sorted(scores, key=lambda other: (-scores[other], other))[:k]
        assert found.scores[row, :k].tolist() == sorted(scores.values(), reverse=True)[:k]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pools_smaller_than_asked_for(count: int) -> None:
    found = _swept(_sets(count, masked=False), 10, "reference", torch.float32)
    assert (found.indices >= 0).sum(axis=1).tolist() == [count - 1] * count


def test_panels_cover_every_row_once() -> None:
    sets = TokenSets([str(place) for place in range(7001)], np.zeros((7001, 1, 2), dtype=np.float16))
    parts = panels(sets)
    assert [row for part in parts for row in part] == list(range(7001))
    assert 20 <= len(parts) <= 28
