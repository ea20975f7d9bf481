"""The loss against hand-computed numbers, and its gradients against the plain einsum."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import losses
from models.losses import info_nce, mean_of_max


def _unit(count: int, tokens: int, dim: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(count, tokens, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=-1).to(dtype)


def _mask(count: int, tokens: int, seed: int) -> Tensor:
    mask = torch.rand(count, tokens, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:, 0] = True
    return mask


def _plain(
    query: Tensor, target: Tensor, query_mask: Tensor | None = None, target_mask: Tensor | None = None
) -> Tensor:
    grid = torch.einsum("iad,jbd->ijab", query, target)
    if target_mask is not None:
        grid = grid.masked_fill(~target_mask[None, :, None, :], -torch.inf)
    best = grid.amax(dim=-1)
    if query_mask is None:
        return best.mean(dim=-1)
    return (best * query_mask[:, None]).sum(dim=-1) / query_mask.sum(dim=-1)[:, None]


def _gradients(loss: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = loss(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(params=["bags", "matrices"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of adding up the gradients, on this machine's CPU, and tiles that divide nothing evenly."""
    monkeypatch.setattr(losses, "TILE_COSINES", 200)
    if request.param == "matrices":
        monkeypatch.setattr(losses, "_by_bags", losses._by_matrices)


def test_two_pairs_by_hand() -> None:
    query = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, -1.0]], [[0.6, 0.8], [-1.0, 0.0]]])
    # Scores: query 0 gives (max(1, 0), max(0.6, -1)), query 1 gives (max(0, -1), max(0.8, 0)).
    torch.testing.assert_close(mean_of_max(query, target), torch.tensor([[1.0, 0.6], [0.0, 0.8]]))
    # At temperature 0.5: ln(1 + e^((0.6 - 1) / 0.5)) and ln(1 + e^((0 - 0.8) / 0.5)), halved.
    expected = (math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))) / 2
    assert float(info_nce(query, target, 0.5)) == pytest.approx(expected, abs=1e-6)
    # The other direction over columns: ln(1 + e^((0 - 1) / 0.5)) and ln(1 + e^((0.6 - 0.8) / 0.5)).
    back = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-0.4))) / 2
    both = float(info_nce(query, target, 0.5, directions="both"))
    assert both == pytest.approx((expected + back) / 2, abs=1e-6)


def test_gradients_by_hand() -> None:
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    _, (to_query, to_target) = _gradients(lambda q, t: mean_of_max(q, t).sum(), query, target)
    # Token 0 of the query chooses target token 0 (1 > 0.6), token 1 chooses token 1 (0.8 > 0); each counts half.
    torch.testing.assert_close(to_query, torch.tensor([[[0.5, 0.0], [0.3, 0.4]]]))
    torch.testing.assert_close(to_target, torch.tensor([[[0.5, 0.0], [0.0, 0.5]]]))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("b", "t", "s"), [(2, 1, 1), (5, 4, 3), (9, 1, 7), (8, 8, 8)])
def test_loss_and_gradients_equal_the_plain_ones(b: int, t: int, s: int, masked: bool, dtype: torch.dtype) -> None:
    query, target = _unit(b, t, dtype=dtype), _unit(b, s, seed=1, dtype=dtype)
    masks = (_mask(b, t, 2), _mask(b, s, 3)) if masked else (None, None)
    labels = torch.arange(b)

    def ours(q: Tensor, k: Tensor) -> Tensor:
        return info_nce(q, k, 0.07, query_mask=masks[0], target_mask=masks[1], directions="both")

    def plain(q: Tensor, k: Tensor) -> Tensor:
        logits = _plain(q, k, *masks) / 0.07
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    found, gradients = _gradients(ours, query, target)
    expected, wanted = _gradients(plain, query, target)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)
    for gradient, right in zip(gradients, wanted, strict=True):
        assert gradient.dtype == dtype
        assert _relative(gradient, right) < 1e-5


@pytest.mark.usefixtures("way")
def test_gradients_pass_the_numerical_check() -> None:
    query, target, negatives = _unit(3, 2).requires_grad_(), _unit(3, 4, seed=1), _unit(2, 3, seed=2)
    masks = {"query_mask": _mask(3, 2, 3), "target_mask": _mask(3, 4, 4), "negative_mask": _mask(2, 3, 5)}
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, n, at: info_nce(q, k, at, negatives=n, directions="both", **masks),
        (query, target.requires_grad_(), negatives.requires_grad_(), temperature),
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("masked", [False, True])
def test_ties_share_the_gradient_as_in_amax(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    monkeypatch.setattr(losses, "TIED", 1)
    # Small whole numbers, of whose products no sum is rounded: equal is equal in whatever order it is computed.
    generator = torch.Generator().manual_seed(0)
    query, target = (torch.randint(-2, 3, (n, t, 3), generator=generator).double() for n, t in ((5, 4), (6, 5)))
    masks = (_mask(5, 4, 2), torch.ones(6, 5, dtype=torch.bool)) if masked else (None, None)
    weights = torch.randn(5, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found = _gradients(lambda q, k: (mean_of_max(q, k, *masks) * weights).sum(), query, target)[1]
    right = _gradients(lambda q, k: (_plain(q, k, *masks) * weights).sum(), query, target)[1]
    for gradient, wanted in zip(found, right, strict=True):
        assert _relative(gradient, wanted) < 1e-12
    monkeypatch.setattr(losses, "TIED", 10**9)
    unshared = _gradients(lambda q, k: (mean_of_max(q, k, *masks) * weights).sum(), query, target)[1]
    assert _relative(unshared[1], right[1]) > 0.01, "no tie was there to be shared"


@pytest.mark.usefixtures("way")
def test_where_most_maxima_are_tied_one_winner_takes_the_whole_gradient() -> None:
    query = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    _, (to_query, to_target) = _gradients(lambda q, k: mean_of_max(q, k).diagonal().sum(), query, target)
    torch.testing.assert_close(to_query, query)
    torch.testing.assert_close(to_target, torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]))


@pytest.mark.usefixtures("way")
def test_what_a_mask_hides_gets_no_gradient_and_spreads_no_nan() -> None:
    query, target = _unit(3, 3), _unit(3, 4, seed=1)
    query_mask, target_mask = torch.ones(3, 3, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    query_mask[1, 2] = target_mask[2, 1] = False
    query[1, 2] = target[2, 1] = torch.nan
    value, (to_query, to_target) = _gradients(
        lambda q, k: info_nce(q, k, 0.1, query_mask=query_mask, target_mask=target_mask), query, target
    )
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(to_query).all())
    assert bool(torch.isfinite(to_target).all())
    assert float(to_query[1, 2].abs().sum()) == float(to_target[2, 1].abs().sum()) == 0


def test_a_padded_token_cannot_beat_a_negative_similarity() -> None:
    query = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    target = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, False], [True, False]])
    assert mean_of_max(query, target, target_mask=mask).tolist() == [[-1.0, -1.0], [-1.0, -1.0]]


def test_other_positives_of_the_same_target_are_no_negatives() -> None:
    query, target = _unit(3, 2), _unit(3, 2, seed=1)
    target[1] = target[0]
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    scores = _plain(query, target) / 0.2
    # Rows 0 and 1 have only column 2 as a negative; the diagonal of the mask is not looked at.
    expected = (
        F.softplus(scores[0, 2] - scores[0, 0])
        + F.softplus(scores[1, 2] - scores[1, 1])
        + torch.logsumexp(scores[2], 0)
        - scores[2, 2]
    ) / 3
    torch.testing.assert_close(info_nce(query, target, 0.2, same_target=same), expected)
    full = torch.ones(3, 3, dtype=torch.bool)
    assert float(info_nce(query, target, 0.2, same_target=full, directions="both")) == 0.0


def test_hard_negatives_add_columns() -> None:
    query, target, negatives = _unit(3, 2), _unit(3, 2, seed=1), _unit(4, 5, seed=2)
    logits = torch.cat([_plain(query, target), _plain(query, negatives)], dim=1) / 0.1
    torch.testing.assert_close(
        info_nce(query, target, 0.1, negatives=negatives), F.cross_entropy(logits, torch.arange(3))
    )
    barred = torch.zeros(3, 7, dtype=torch.bool)
    barred[0, 3:] = True
    expected = F.cross_entropy(logits.masked_fill(barred, -torch.inf), torch.arange(3))
    torch.testing.assert_close(info_nce(query, target, 0.1, negatives=negatives, same_target=barred), expected)


def test_the_temperature_learns() -> None:
    query, target = _unit(4, 2), _unit(4, 2, seed=1)
    temperature = torch.tensor(0.07, dtype=torch.float64)
    _, (found,) = _gradients(lambda at: info_nce(query, target, at), temperature)
    _, (expected,) = _gradients(lambda at: F.cross_entropy(_plain(query, target) / at, torch.arange(4)), temperature)
    torch.testing.assert_close(found, expected)


def test_half_precision_is_compared_in_float32() -> None:
    query, target = _unit(4, 3, dtype=torch.bfloat16), _unit(4, 3, seed=1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, (to_query, _) = _gradients(lambda q, k: info_nce(q, k, 0.07), query, target)
    expected = F.cross_entropy(_plain(query.float(), target.float()) / 0.07, torch.arange(4))
    assert value.dtype == torch.float32
    assert to_query.dtype == torch.bfloat16
    torch.testing.assert_close(value, expected)


def test_more_tokens_than_a_byte_counts() -> None:
    query, target = _unit(2, 2), _unit(2, 300, seed=1)
    found = _gradients(lambda q, k: info_nce(q, k, 0.1), query, target)[1]
    expected = _gradients(lambda q, k: F.cross_entropy(_plain(q, k) / 0.1, torch.arange(2)), query, target)[1]
    assert _relative(found[1], expected[1]) < 1e-12


def test_errors_say_what_is_wrong() -> None:
    query = _unit(3, 2)
    with pytest.raises(ValueError, match="at least 2, got 1: a lone pair has no negative"):
        info_nce(query[:1], query[:1], 0.1)
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        info_nce(query, query, 0.0)
    with pytest.raises(ValueError, match="3 queries but 2 targets"):
        info_nce(query, query[:2], 0.1)
    with pytest.raises(ValueError, match=r"query and target must be \(B, T, D\)"):
        info_nce(query, query[..., :4], 0.1)
    with pytest.raises(ValueError, match=r"query and negatives must be"):
        info_nce(query, query, 0.1, negatives=query[0])
    with pytest.raises(ValueError, match="same_target must be"):
        info_nce(query, query, 0.1, same_target=torch.zeros(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"the target mask must be \(3, 2\) bool"):
        info_nce(query, query, 0.1, target_mask=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="query 1 has no token that counts"):
        info_nce(query, query, 0.1, query_mask=torch.tensor([[True, True], [False, False], [True, True]]))
    query[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="row 1 of the batch has scores that are NaN"):
        info_nce(query, _unit(3, 2), 0.1)
