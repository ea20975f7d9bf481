"""InfoNCE over the mean-of-max similarity, without a B x B x T x T tensor."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE_COSINES = 2**21
"""Cosines held at once, 8 MB in float32; a tile is never smaller than one query and one target."""
TIED = 64
"""One maximum in so many may be tied for the ties to be kept; see `mean_of_max`."""


def info_nce(
    query: Tensor,
    target: Tensor,
    temperature: float | Tensor,
    *,
    query_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_mask: Tensor | None = None,
    same_target: Tensor | None = None,
    directions: Literal["one", "both"] = "one",
) -> Tensor:
    """Cross-entropy of each query against every target of the batch, over s(query, target) / temperature.

    s is the mean over the query's tokens of the max over the target's tokens of their product.

    Args:
        query: (B, T, D), L2-normalised by the caller.
        target: (B, S, D), likewise; row i is the positive of query i. S may differ from T.
        temperature: > 0, a number or a scalar tensor, which then gets its gradient.
        query_mask: (B, T) bool, True where a token counts; every set needs one that does.
        target_mask: (B, S) bool, likewise.
        negatives: (K, S', D) hard negatives, further wrong answers to every query; L2-normalised by the caller.
        negative_mask: (K, S') bool.
        same_target: bool, (B, B) or, where it speaks of the hard negatives too, (B, B + K): True where column j is
            a right answer to query i as well and so no negative of it. The diagonal is not looked at.
        directions: "one" asks each query for its target; "both" adds each target asking for its query, over the same
            scores (as CLIP does), and halves the sum. Hard negatives take part in the first direction only.

    Returns:
        Scalar in nats, mean over B. float64 for float64 tokens, else float32.

    Raises:
        ValueError: if B < 2: a lone pair has no negative. For shapes that do not fit, a temperature that is not
            positive, and NaN or infinite scores.
    """
    _check(query, target, negatives, same_target)
    heat = float(temperature.detach()) if isinstance(temperature, Tensor) else temperature
    if not 0 < heat < float("inf"):
        raise ValueError(f"the temperature must be positive and finite, got {heat}")
    scores = mean_of_max(query, target, query_mask, target_mask)
    if negatives is not None:
        scores = torch.cat([scores, mean_of_max(query, negatives, query_mask, negative_mask)], dim=1)
    if not bool(torch.isfinite(scores.detach()).all()):
        row = int((~torch.isfinite(scores.detach())).any(dim=1).nonzero()[0, 0])
        raise ValueError(
            f"row {row} of the batch has scores that are NaN or infinite; a network's output is not a number"
        )
    size = len(query)
    logits = scores / temperature
    barred = _barred(same_target, size, logits.shape[1], logits.device)
    labels = torch.arange(size, device=logits.device)
    loss = F.cross_entropy(logits.masked_fill(barred, -torch.inf), labels)
    if directions == "one":
        return loss
    back = logits[:, :size].masked_fill(barred[:, :size], -torch.inf).T
    return (loss + F.cross_entropy(back, labels)) / 2


def mean_of_max(
    query: Tensor, target: Tensor, query_mask: Tensor | None = None, target_mask: Tensor | None = None
) -> Tensor:
    """s(query i, target j) of all pairs, differentiable; what is kept for the gradient is one index per query token
    and target, B x N x T bytes while S <= 256, and 36 bytes for each of the few that tie.

    The gradient is exact. Where several target tokens tie, they share it evenly, as in `amax`: float32 makes about one
    maximum in two million of random tokens such a case. Where more than one in `TIED` maxima of a tile are tied, as
    between collapsed tokens, or they tie between more tokens than that, the first takes it all: a subgradient as good,
    and one that needs no memory.

    Args:
        query: (B, T, D), L2-normalised by the caller.
        target: (N, S, D), likewise. Half precision is multiplied and compared in float32.
        query_mask: (B, T) bool, True where a token counts; every set needs one that does.
        target_mask: (N, S) bool, likewise.

    Returns:
        (B, N) float32, or float64 for float64 tokens.
    """
    for name, tokens, mask in (("query", query, query_mask), ("target", target, target_mask)):
        if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != torch.bool):
            wanted = tuple(tokens.shape[:2])
            raise ValueError(f"the {name} mask must be {wanted} bool, got {tuple(mask.shape)} {mask.dtype}")
        if mask is not None and not bool(mask.any(dim=1).all()):
            raise ValueError(f"{name} {int((~mask.any(dim=1)).nonzero()[0, 0])} has no token that counts")
    # A weight of zero does not stop a NaN.
    if query_mask is not None:
        query = query.masked_fill(~query_mask.unsqueeze(-1), 0.0)
    if target_mask is not None:
        target = target.masked_fill(~target_mask.unsqueeze(-1), 0.0)
    scores: Tensor = _MeanOfMax.apply(query, target, query_mask, target_mask)  # type: ignore[no-untyped-call]
    return scores


class _MeanOfMax(torch.autograd.Function):
    """Forward in tiles that keep the winners' places; backward adds up the winners."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, target: Tensor, query_mask: Tensor | None, target_mask: Tensor | None
    ) -> Tensor:
        (b, t, _), (n, s, _) = query.shape, target.shape
        kind = torch.float64 if query.dtype == torch.float64 else torch.float32
        share = _shares(query, query_mask, kind)
        scores = torch.empty(b, n, dtype=kind, device=query.device)
        winners = torch.empty(n, t, b, dtype=_index_type(s), device=query.device)
        ties: list[tuple[Tensor, Tensor]] = []
        across = max(1, min(b, 2048 // t))
        down = max(1, min(n, TILE_COSINES // (across * t * s)))
        with torch.autocast(query.device.type, enabled=False):
            for left in range(0, b, across):
                some = slice(left, left + across)
                # Query tokens on columns, by token and then by query: the maximum runs over contiguous vectors.
                columns = query[some].to(kind).transpose(0, 1).flatten(0, 1).T
                for top in range(0, n, down):
                    block = slice(top, top + down)
                    grid = (target[block].to(kind).flatten(0, 1) @ columns).view(-1, s, columns.shape[1])
                    if target_mask is not None:
                        grid = grid.masked_fill(~target_mask[block].unsqueeze(-1), -torch.inf)
                    best, places = grid.max(dim=1)
                    winners[block, :, some] = places.view(len(best), t, -1).to(winners.dtype)
                    terms = best.view(len(best), t, -1) * share[some].T
                    scores[some, block] = terms.sum(dim=1).T
                    ties += _ties(grid, best, places, share[some], top, left)
        between = [torch.cat(parts) for parts in zip(*ties, strict=True)]
        ctx.save_for_backward(query, target, share, winners, *between)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        query, target, share, winners, *between = ctx.saved_tensors
        add = _by_bags if query.device.type == "cpu" else _by_matrices
        with torch.autocast(query.device.type, enabled=False):
            wide = query.to(share.dtype), target.to(share.dtype)
            to_query, to_target = add(*wide, share, winners, gradient)
            if between:
                _share_ties(to_query, to_target, *wide, share, gradient, *between)
        return to_query.to(query.dtype), to_target.to(target.dtype), None, None


def _ties(
    grid: Tensor, best: Tensor, places: Tensor, share: Tensor, top: int, left: int
) -> list[tuple[Tensor, Tensor]]:
    """The target tokens that tie for a maximum of a tile, at most one such set.

    Args:
        grid: (g, S, T q) cosines.
        best: (g, T q) their maxima, `places` where the first of each is.
        share: (q, T) weights; the maxima of tokens that do not count are of no interest.
        top, left: the first target and the first query of the tile.

    Returns:
        (K, 4) target, its token, query, its token; and (K,) what to add to the share of that target token in the
        gradient, where the first of those that tie was given all.
    """
    equal = grid == best.unsqueeze(1)
    if int(equal.count_nonzero()) <= best.numel():
        return []
    counts = equal.sum(dim=1)
    tied = (counts > 1) & (share.T.flatten() > 0)
    if not bool(tied.any()) or int(tied.count_nonzero()) * TIED > tied.numel():
        return []
    image, token, column = (equal & tied.unsqueeze(1)).nonzero().unbind(1)
    if len(image) * TIED > 2 * tied.numel():
        return []
    surplus = 1 / counts[image, column].to(share.dtype) - (places[image, column] == token).to(share.dtype)
    count = len(share)
    return [(torch.stack([image + top, token, column % count + left, column // count], dim=1), surplus)]


def _share_ties(
    to_query: Tensor, to_target: Tensor, query: Tensor, target: Tensor, share: Tensor, gradient: Tensor,
    places: Tensor, surplus: Tensor,
) -> None:  # fmt: skip
    """Spread over the target tokens that tie what the first of them was given, in both gradients."""
    n, s, b, t = places.unbind(1)
    weights = (gradient[b, n] * share[b, t] * surplus).unsqueeze(-1)
    to_query.index_put_((b, t), weights * target[n, s], accumulate=True)
    to_target.index_put_((n, s), weights * query[b, t], accumulate=True)


def _by_bags(query: Tensor, target: Tensor, share: Tensor, winners: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients as weighted sums of rows, each row read where it lies: the fastest on a CPU.

    A query token's gradient is a sum of the target tokens it chose, one per target; a target token's, of the query
    tokens that chose it.
    """
    (b, t, d), (n, s, _) = query.shape, target.shape
    to_query, to_target = torch.empty_like(query), torch.empty_like(target)
    rows, base = target.reshape(n * s, d), torch.arange(n).unsqueeze(1) * s
    for left in range(0, b, step := max(1, TILE_COSINES // (8 * n * t))):
        some = slice(left, left + step)
        chosen = (winners[:, :, some].long().flatten(1) + base).T.contiguous()  # (t * q, n)
        weights = (gradient[some].unsqueeze(0) * share[some].T.unsqueeze(-1)).flatten(0, 1)
        sums = F.embedding_bag(chosen, rows, mode="sum", per_sample_weights=weights)
        to_query[some] = sums.view(t, -1, d).transpose(0, 1)
    rows = query.transpose(0, 1).reshape(t * b, d)
    for top in range(0, n, step := max(1, TILE_COSINES // (8 * b * t))):
        block = slice(top, top + step)
        places, order = winners[block].flatten(1).sort(dim=1)  # tokens of each target, grouped by whom they chose
        weights = (gradient[:, block].T.unsqueeze(1) * share.T).flatten(1).gather(1, order)
        count = len(places)
        keys = (places.long() + torch.arange(count).unsqueeze(1) * s).flatten()
        ends = torch.bincount(keys, minlength=count * s).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        sums = F.embedding_bag(order.flatten(), rows, starts, mode="sum", per_sample_weights=weights.flatten())
        to_target[block] = sums.view(count, s, d)
    return to_query, to_target


def _by_matrices(
    query: Tensor, target: Tensor, share: Tensor, winners: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients as products with the matrix of winners, tile by tile: what a GPU is made for."""
    (b, t, d), (n, s, _) = query.shape, target.shape
    rows, columns = query.transpose(0, 1).reshape(t * b, d), target.reshape(n * s, d)
    to_query, to_target = torch.zeros_like(rows), torch.empty_like(columns)
    for top in range(0, n, step := max(1, 8 * TILE_COSINES // (b * t * s))):
        block = slice(top, top + step)
        chosen = winners[block].long().flatten(1)
        weights = (gradient[:, block].T.unsqueeze(1) * share.T).flatten(1)
        grid = query.new_zeros(len(chosen), s, t * b).scatter_(1, chosen.unsqueeze(1), weights.unsqueeze(1))
        grid = grid.flatten(0, 1)
        to_query += grid.T @ columns[top * s : (top + step) * s]
        to_target[top * s : (top + step) * s] = grid @ rows
    return to_query.view(t, b, d).transpose(0, 1), to_target.view(n, s, d)


def _shares(query: Tensor, mask: Tensor | None, kind: torch.dtype) -> Tensor:
    """(B, T) weight of each query token in its mean; 0 for tokens that do not count."""
    b, t, _ = query.shape
    if mask is None:
        return torch.full((b, t), 1 / t, dtype=kind, device=query.device)
    return mask.to(kind) / mask.sum(dim=1, keepdim=True)


def _index_type(tokens: int) -> torch.dtype:
    """The smallest type that holds the place of a token."""
    if tokens <= 256:
        return torch.uint8
    return torch.int16 if tokens <= 2**15 else torch.int32


def _barred(same_target: Tensor | None, size: int, width: int, device: torch.device) -> Tensor:
    """(B, B + K) bool: columns that are no negative of a row."""
    barred = torch.zeros(size, width, dtype=torch.bool, device=device)
    if same_target is not None:
        barred[:, : same_target.shape[1]] = same_target.to(device)
        barred.fill_diagonal_(False)
    return barred


def _check(query: Tensor, target: Tensor, negatives: Tensor | None, same_target: Tensor | None) -> None:
    size = len(query)
    if size < 2:
        raise ValueError(f"need a batch of at least 2, got {size}: a lone pair has no negative")
    others = {"target": target} if negatives is None else {"target": target, "negatives": negatives}
    for name, tokens in others.items():
        if query.ndim != 3 or tokens.ndim != 3 or query.shape[2] != tokens.shape[2]:
            raise ValueError(
                f"query and {name} must be (B, T, D) and (N, S, D), got {tuple(query.shape)} and {tuple(tokens.shape)}"
            )
    if len(target) != size:
        raise ValueError(f"{size} queries but {len(target)} targets; row i is the positive of query i")
    widths = (size, size + (0 if negatives is None else len(negatives)))
    if same_target is not None and (
        same_target.dtype != torch.bool or same_target.shape[0] != size or same_target.shape[1] not in widths
    ):
        raise ValueError(
            f"same_target must be ({size}, {widths[0]}) or ({size}, {widths[1]}) bool,"
            f" got {tuple(same_target.shape)} {same_target.dtype}"
        )
