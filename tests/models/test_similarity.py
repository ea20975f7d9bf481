"""The similarity against hand-computed numbers and plain float64."""

import numpy as np
import pytest
import torch

from models.similarity import Unit, exact_scores, maxsim, normalised, rounded, rounding_bound, tile
from tests.models.reference import score


def _sets(count: int, tokens: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, tokens, dim, generator=torch.Generator().manual_seed(seed))


def test_two_tokens_a_side_by_hand() -> None:
    reference = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    candidates = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [1.0, 0.0]]])
    # Row 0: best of (1, 0.6) and of (0, 0.8): (1 + 0.8) / 2. Row 1: (1 + 0) / 2.
    np.testing.assert_allclose(maxsim(reference, candidates), [[0.9, 0.5]], rtol=1e-6)
    # The other way, row 0: best of (1, 0) and of (0.6, 0.8): again 0.9; row 1: (1 + 1) / 2.
    np.testing.assert_allclose(maxsim(candidates, reference), [[0.9], [1.0]], rtol=1e-6)


def test_a_masked_token_neither_wins_nor_counts() -> None:
    reference = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    candidate = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    first = torch.tensor([[True, False]])
    # The masked zero would score 0 and beat -1; the masked reference token would halve the mean.
    assert maxsim(reference, candidate, first, first).item() == -1.0
    assert exact_scores(reference[0], candidate, "reference", first[0], first).item() == -1.0
    assert exact_scores(reference[0], candidate, "candidate", first[0], first).item() == -1.0


def test_one_token_is_the_ordinary_cosine() -> None:
    a, b = _sets(3, 1, 5), _sets(4, 1, 5, seed=1)
    expected = torch.nn.functional.cosine_similarity(a, b.transpose(0, 1), dim=-1)
    torch.testing.assert_close(maxsim(normalised(a).tokens, normalised(b).tokens), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("t", "s"), [(1, 1), (3, 5), (8, 2)])
def test_both_directions_of_a_tile_equal_plain_float64(t: int, s: int, masked: bool) -> None:
    a, b = _sets(4, t, 6).half(), _sets(5, s, 6, seed=1).half()
    generator = torch.Generator().manual_seed(2)
    mask_a = (torch.rand(4, t, generator=generator) < 0.6) | (torch.arange(t) == 0) if masked else None
    mask_b = (torch.rand(5, s, generator=generator) < 0.6) | (torch.arange(s) == 0) if masked else None
    rows_a = [x[m].numpy() for x, m in zip(a, mask_a if mask_a is not None else torch.ones(4, t).bool(), strict=True)]
    rows_b = [x[m].numpy() for x, m in zip(b, mask_b if mask_b is not None else torch.ones(5, s).bool(), strict=True)]
    there = np.array([[score(x, y) for y in rows_b] for x in rows_a])
    back = np.array([[score(y, x) for y in rows_b] for x in rows_a])

    ahead, behind = tile(normalised(a, mask_a), normalised(b, mask_b))

    assert ahead is not None
    assert behind is not None
    np.testing.assert_allclose(ahead, there, atol=1e-6)
    np.testing.assert_allclose(behind, back, atol=1e-6)
    for row in range(4):
        own = None if mask_a is None else mask_a[row]
        np.testing.assert_array_equal(exact_scores(a[row], b, "reference", own, mask_b), there[row])
        np.testing.assert_array_equal(exact_scores(a[row], b, "candidate", own, mask_b), back[row])


def test_what_a_mask_hides_is_never_looked_at() -> None:
    tokens = _sets(2, 3, 4)
    tokens[1, 2] = torch.nan
    mask = torch.tensor([[True, True, True], [True, True, False]])
    unit = normalised(tokens, mask)
    assert bool(torch.isfinite(unit.tokens).all())
    assert bool(torch.isfinite(exact_scores(tokens[1], tokens, "reference", mask[1], mask)).all())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "image 'b.png': token 2 has a value that is NaN"),
        (float("inf"), "image 'b.png': token 2 has a value that is NaN or infinite"),
        (0.0, "image 'b.png': token 2 has norm zero"),
    ],
)
def test_a_token_without_direction_is_an_error_that_names_the_image(value: float, message: str) -> None:
    tokens = _sets(2, 3, 4)
    tokens[1, 2] = value
    with pytest.raises(ValueError, match=message):
        normalised(tokens, names=["a.png", "b.png"])


def test_wrong_shapes_and_empty_masks_are_errors() -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(N, T, D\)"):
        normalised(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"the mask must be \(2, 3\) bool"):
        normalised(torch.ones(2, 3, 4), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="token set 1 has no token that counts"):
        normalised(torch.ones(2, 3, 4), torch.tensor([[True] * 3, [False] * 3]))


def test_the_scale_of_tokens_does_not_matter() -> None:
    tokens = _sets(2, 3, 4)
    torch.testing.assert_close(normalised(tokens * 300).tokens, normalised(tokens).tokens)
    assert normalised(tokens.double()).tokens.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_first_pass_score_is_off_by_more_than_its_bound(dtype: torch.dtype) -> None:
    # Near-copies put cosines around 1, where bfloat16 rounds most.
    base = _sets(1, 4, 32)
    gallery = torch.cat([_sets(40, 4, 32, seed=3), base + 0.01 * _sets(40, 4, 32, seed=4)]).half()
    queries = gallery[::8]
    rough, loss = rounded(normalised(queries), dtype)
    block, block_loss = rounded(normalised(gallery), dtype)
    ahead, behind = tile(rough, block)
    bound = rounding_bound(dtype, 32, 4, loss, float(block_loss.max()))
    for found, direction in ((ahead, "reference"), (behind, "candidate")):
        assert found is not None
        exact = torch.stack([exact_scores(query, gallery, direction) for query in queries])  # type: ignore[arg-type]
        assert bool(((found - exact).abs() <= bound.unsqueeze(1)).all())
    assert bound.max() < (5e-5 if dtype == torch.float32 else 0.012)


def test_gradients_flow_through_the_similarity() -> None:
    a, b = _sets(2, 3, 4).double().requires_grad_(), _sets(3, 2, 4, seed=1).double().requires_grad_()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradcheck(lambda x, y: maxsim(x, y, mask), (a, b))


def test_a_set_without_mask_keeps_none() -> None:
    unit = normalised(_sets(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))
    assert isinstance(unit, Unit)
    assert unit.mask is None
