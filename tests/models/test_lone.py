"""One query at a time against a gallery: exactly what ranking gives."""

import numpy as np
import pytest

from models.lone import LoneRanker, best_matches
from models.ranking import TokenSets, top_k


def sets(count: int, tokens: int, dim: int, seed: int, masked: bool = False) -> TokenSets:
    random = np.random.default_rng(seed)
    scale = random.uniform(0.1, 9, (count, tokens, 1))
    values = (random.standard_normal((count, tokens, dim)) * scale).astype(np.float16)
    mask = None
    if masked:
        mask = random.random((count, tokens)) < 0.6
        mask[:, 0] = True
        values[~mask] = np.nan
    return TokenSets([f"{place:05d}" for place in range(count)], values, mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("count", "tokens"), [(700, 7), (40, 1), (5000, 3)])
def test_it_ranks_as_ranking_does(count: int, tokens: int, masked: bool) -> None:
    gallery = sets(count, tokens, 24, 0, masked)
    ranker = LoneRanker(gallery)
    for seed, exclude in ((1, -1), (2, 3)):
        query = sets(1, 5, 24, seed)
        expected = top_k(query, gallery, 20, exclude=[exclude])
        found = ranker.top_k(query, 20, exclude)
        assert found.indices.tolist() == expected.indices.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


def test_equal_scores_go_by_id_and_a_small_gallery_gives_fewer() -> None:
    one = sets(1, 4, 8, 0)
    gallery = TokenSets(["c", "a", "b"], np.repeat(one.tokens, 3, axis=0))
    found = LoneRanker(gallery).top_k(sets(1, 4, 8, 1), 9)
    assert found.indices.tolist() == [[1, 2, 0]]
    with pytest.raises(ValueError, match="equal dimensions; got 1, 5, 7 and 8"):
        LoneRanker(gallery).top_k(sets(1, 4, 7, 1), 5)
    with pytest.raises(ValueError, match="'a': token 0 has norm zero"):
        LoneRanker(TokenSets(["a"], np.zeros((1, 2, 8), np.float16)))


def test_the_score_is_the_mean_of_the_matches() -> None:
    # Tokens e1 and (e1 + e2) / sqrt 2 of the query; the image has e2 and e1.
    query = TokenSets(["q"], np.array([[[1, 0], [3, 3]]], np.float32))
    image = TokenSets(["i"], np.array([[[0, 2], [1, 0]]], np.float32))
    places, cosines = best_matches(query, image)
    assert places[0] == 1
    assert cosines == pytest.approx([1, 0.5**0.5])
    assert LoneRanker(image).top_k(query, 1).scores[0, 0] == pytest.approx((1 + 0.5**0.5) / 2)
