"""Ranks and top k against a plain float64 ranking."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import ranking
from models.ranking import TokenSets, rank_of_target, top_k
from models.similarity import Direction
from tests.models.reference import score


def _sets(count: int, tokens: int = 3, dim: int = 8, seed: int = 0, masked: bool = False) -> TokenSets:
    random_state = np.random.default_rng(seed)
    values = random_state.normal(size=(count, tokens, dim)).astype(np.float16)
    mask = None
    if masked:
        mask = random_state.random((count, tokens)) < 0.5
        mask[:, 0] = True
        values[~mask] = np.nan
    return TokenSets([f"{place:04d}" for place in range(count)], values, mask)


def _row(sets: TokenSets, place: int) -> np.ndarray:
    tokens: np.ndarray = sets.tokens[place]
    return tokens if sets.mask is None else tokens[sets.mask[place]]


def _plain(
    queries: TokenSets, gallery: TokenSets, place: int, direction: Direction, barred: int
) -> list[tuple[str, float]]:
    """The whole ranking of one query: (id, score), by score and then by id."""
    query, found = _row(queries, place), []
    for row in range(len(gallery)):
        pair = (query, _row(gallery, row)) if direction == "reference" else (_row(gallery, row), query)
        if row != barred:
            found.append((gallery.ids[row], float(score(*pair))))
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _found(gallery: TokenSets, ranked: ranking.Ranked, place: int) -> list[tuple[str, float]]:
    kept = ranked.indices[place] >= 0
    ids = [gallery.ids[row] for row in ranked.indices[place][kept]]
    return list(zip(ids, ranked.scores[place][kept].tolist(), strict=True))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several strips and tiles, none of which divides anything evenly."""
    monkeypatch.setattr(ranking, "STRIP_IMAGES", 7)
    monkeypatch.setattr(ranking, "TILE_COLUMNS", 10)
    monkeypatch.setattr(ranking, "TILE_ROWS", 9)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("direction", ["reference", "candidate"])
def test_references_ranked_among_themselves(direction: Direction, masked: bool, dtype: torch.dtype) -> None:
    sets = _sets(60, masked=masked)
    ranked = top_k(sets, sets, 12, direction, exclude=range(60), dtype=dtype)
    for place in range(60):
        assert _found(sets, ranked, place) == _plain(sets, sets, place, direction, place)[:12]


def test_the_two_directions_differ() -> None:
    sets = _sets(40)
    one, other = (top_k(sets, sets, 39, direction, exclude=range(40)) for direction in ("reference", "candidate"))
    assert (one.indices != other.indices).any()


@pytest.mark.parametrize("direction", ["reference", "candidate"])
@pytest.mark.parametrize("k", [4, 30])
def test_unequal_token_counts(direction: Direction, k: int, dtype: torch.dtype) -> None:
    queries, gallery = _sets(5, tokens=1, seed=1, masked=False), _sets(30, tokens=4, masked=True)
    ranked = top_k(queries, gallery, k, direction, dtype=dtype)
    for place in range(5):
        assert _found(gallery, ranked, place) == _plain(queries, gallery, place, direction, -1)[:k]


@pytest.mark.usefixtures("small_blocks")
def test_ties_go_by_id_wherever_they_stand(dtype: torch.dtype) -> None:
    base = _sets(8).tokens
    copies = np.concatenate([base] * 15)
    ids = [f"{place:04d}" for place in range(len(copies))]
    random.Random(0).shuffle(ids)
    sets = TokenSets(ids, copies)
    # 14 copies of each reference score 1: more ties than k, and more than the shortlist of bfloat16 keeps in reserve.
    ranked = top_k(sets, sets, 5, exclude=range(120), dtype=dtype)
    for place in range(120):
        assert _found(sets, ranked, place) == _plain(sets, sets, place, "reference", place)[:5]


def test_a_gallery_of_equal_images_is_ranked_by_id(dtype: torch.dtype) -> None:
    sets = TokenSets([f"{place:04d}" for place in range(90)], np.repeat(_sets(1).tokens, 90, axis=0))
    ranked = top_k(sets, sets, 4, exclude=range(90), dtype=dtype)
    # More ties than the shortlist holds: the row is done over from the whole gallery.
    assert ranked.indices[0].tolist() == [1, 2, 3, 4]
    assert ranked.indices[2].tolist() == [0, 1, 3, 4]


def test_scores_and_order_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = _sets(200, tokens=5, dim=48)
    whole = top_k(sets, sets, 20, exclude=range(200))
    for strip, columns, rows in ((3, 4, 5), (64, 32, 100), (199, 1000, 17)):
        monkeypatch.setattr(ranking, "STRIP_IMAGES", strip)
        monkeypatch.setattr(ranking, "TILE_COLUMNS", columns)
        monkeypatch.setattr(ranking, "TILE_ROWS", rows)
        part = top_k(sets, sets, 20, exclude=range(200))
        np.testing.assert_array_equal(part.indices, whole.indices)
        np.testing.assert_array_equal(part.scores.view(np.int32), whole.scores.view(np.int32))


@settings(max_examples=25)
@given(st.permutations(range(25)), st.integers(1, 30))
def test_the_order_of_the_gallery_is_irrelevant(order: list[int], k: int) -> None:
    tokens = np.concatenate([_sets(20).tokens, _sets(5).tokens])  # the last five repeat the first five
    ids = [f"{place:04d}" for place in range(25)]
    sorted_gallery = TokenSets(ids, tokens)
    shuffled = TokenSets([ids[place] for place in order], tokens[order])
    queries = _sets(3, seed=9)
    expected, found = top_k(queries, sorted_gallery, k), top_k(queries, shuffled, k)
    for place in range(3):
        assert _found(shuffled, found, place) == _found(sorted_gallery, expected, place)


def test_fewer_images_than_asked_for() -> None:
    sets = _sets(4)
    ranked = top_k(sets, sets, 10, exclude=[0, 1, 2, -1])
    assert ranked.indices.shape == (4, 4)
    assert ranked.indices[0, 3] == -1
    assert ranked.scores[0, 3] == -np.inf
    assert ranked.indices[3].min() == 0


def test_one_image_has_no_candidates_and_nothing_has_none() -> None:
    one = _sets(1)
    assert top_k(one, one, 5, exclude=[0]).indices.tolist() == [[-1]]
    assert top_k(one, _sets(0), 5).indices.shape == (1, 0)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("direction", ["reference", "candidate"])
def test_the_rank_of_a_target_is_its_place_in_the_full_ranking(direction: Direction, dtype: torch.dtype) -> None:
    queries, gallery = _sets(12, seed=1), _sets(50, masked=True)
    targets, barred = [(place * 7) % 49 for place in range(12)], [49] * 12
    ranks = rank_of_target(queries, gallery, targets, direction, barred, dtype)
    for place, target in enumerate(targets):
        order = [name for name, _ in _plain(queries, gallery, place, direction, 49)]
        assert ranks[place] == 1 + order.index(gallery.ids[target])


def test_ties_do_not_count_against_a_target() -> None:
    gallery = TokenSets(["a", "b", "c", "d"], np.array([[[1, 0]], [[3, 4]], [[3, 4]], [[0, 1]]], dtype=np.float16))
    query = TokenSets(["q"], np.array([[[2, 0]]], dtype=np.float16))
    # Cosines 1, 0.6, 0.6, 0: only "a" is above either of the two in the middle.
    assert rank_of_target(query, gallery, [2]).tolist() == [2]
    assert rank_of_target(query, gallery, [2], exclude=[0]).tolist() == [1]


def test_errors_say_what_is_wrong() -> None:
    sets = _sets(3)
    with pytest.raises(ValueError, match="k of at least 1, got 0"):
        top_k(sets, sets, 0)
    with pytest.raises(ValueError, match="8 dimensions and the gallery 4"):
        top_k(sets, _sets(3, dim=4), 1)
    with pytest.raises(ValueError, match=r"one gallery row of 0\.\.2"):
        rank_of_target(sets, sets, [0, 1, 3])
    with pytest.raises(ValueError, match="query '0001' has its target excluded"):
        rank_of_target(sets, sets, [0, 1, 2], exclude=[-1, 1, -1])
    with pytest.raises(ValueError, match="one row to exclude"):
        top_k(sets, sets, 1, exclude=[0])
    with pytest.raises(ValueError, match="N ids, got"):
        TokenSets(["a"], sets.tokens)
    with pytest.raises(ValueError, match="id 'a' appears twice"):
        top_k(sets, TokenSets(["a", "b", "a"], sets.tokens), 1)


def test_a_nan_token_names_its_image() -> None:
    sets = _sets(3)
    sets.tokens[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="image '0001': token 2 has a value that is NaN"):
        top_k(sets, sets, 1)
