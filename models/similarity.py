"""The one similarity of the project, on token sets.

s(i, j) = mean over the tokens of i of (max over the tokens of j of their cosine), in [-1, 1]; not symmetric. One
token a side makes it the ordinary cosine of two embeddings.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models.terms import Similarity

Direction = Literal["reference", "candidate"]
"""Whose tokens are averaged: "reference" is s(reference, candidate), "candidate" is s(candidate, reference)."""


def laid_out(tokens: Tensor, similarity: Similarity) -> Tensor:
    """Unit tokens (..., T, D) such that the mean of maxima between two of the results is the asked similarity.

    Returns:
        (..., T, D) for "max", (..., 1, D) for "pooled", (..., 1, T D) for "slots", of unit vectors.
    """
    if similarity == "pooled":
        mean: Tensor = torch.nn.functional.normalize(tokens.mean(dim=-2, keepdim=True), dim=-1)
        return mean
    if similarity == "slots":
        # Two such vectors have the product (1 / T) sum over t of <a_t, b_t>.
        whole: Tensor = tokens.flatten(-2).unsqueeze(-2) / tokens.shape[-2] ** 0.5
        return whole
    return tokens


INTEGER_UNIT = 32_000
"""Length of a unit vector in 16-bit integers: neither an entry nor a 32-bit sum of products can overflow."""


class Unit(NamedTuple):
    """Token sets ready to be multiplied.

    Attributes:
        tokens: (N, T, D), L2-normalised; tokens that do not count are zero.
        mask: (N, T) bool, True where a token counts; None where all do.
    """

    tokens: Tensor
    mask: Tensor | None


def normalised(tokens: Tensor, mask: Tensor | None = None, names: Sequence[str] | None = None) -> Unit:
    """L2-normalise token sets in float32 (float64 stays) and refuse what has no direction.

    Args:
        tokens: (N, T, D), any floating type, any scale.
        mask: (N, T) bool, True where a token counts; what stands elsewhere, NaN included, is never looked at.
        names: N names for the errors.

    Raises:
        ValueError: naming the first image with a NaN or infinite token, a token of norm zero, or no token at all.
    """
    norms = token_norms(tokens, mask, names)
    kind = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    unit = tokens.to(kind, copy=True).mul_(norms.reciprocal().to(kind).unsqueeze(-1))
    if mask is None or bool(mask.all()):
        return Unit(unit, None)
    return Unit(unit.masked_fill(~mask.unsqueeze(-1), 0.0), mask)


def token_norms(tokens: Tensor, mask: Tensor | None = None, names: Sequence[str] | None = None) -> Tensor:
    """(N, T) L2 norms in float64, 1 where a token does not count; arguments and errors as of `normalised`."""
    if tokens.ndim != 3 or 0 in tokens.shape[1:]:
        raise ValueError(f"tokens must be (N, T, D) with T and D at least 1, got {tuple(tokens.shape)}")
    if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != torch.bool):
        wanted, found = tuple(tokens.shape[:2]), tuple(mask.shape)
        raise ValueError(f"the mask must be {wanted} bool, got {found} {mask.dtype}")
    norms: Tensor = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float64)
    if mask is not None:
        norms = norms.masked_fill(~mask, 1.0)
        if not bool(mask.any(dim=1).all()):
            image = int((~mask.any(dim=1)).nonzero()[0, 0])
            raise ValueError(f"{_name(image, names)} has no token that counts; its mask is all False")
    wrong = ~torch.isfinite(norms) | (norms == 0)
    if bool(wrong.any()):
        image, token = (int(place) for place in wrong.nonzero()[0])
        what = "norm zero" if float(norms[image, token]) == 0 else "a value that is NaN or infinite"
        raise ValueError(
            f"{_name(image, names)}: token {token} has {what}, so it has no cosine; encode the image again or drop it"
        )
    return norms


def maxsim(
    reference: Tensor,
    candidates: Tensor,
    reference_mask: Tensor | None = None,
    candidate_mask: Tensor | None = None,
) -> Tensor:
    """s(i, j) of every reference with every candidate, differentiable; holds all Q x N x T x S cosines at once.

    Args:
        reference: (Q, T, D), L2-normalised by the caller.
        candidates: (N, S, D), likewise; S may differ from T.
        reference_mask: (Q, T) bool, True where a token counts.
        candidate_mask: (N, S) bool, likewise. Every set needs one token that counts.

    Returns:
        (Q, N), in the type of the tokens; gradients of tied maxima are shared out evenly.
    """
    forward, _ = tile(Unit(reference, reference_mask), Unit(candidates, candidate_mask), backward=False)
    assert forward is not None
    return forward


def tile(
    queries: Unit, gallery: Unit, *, forward: bool = True, backward: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Both similarities of every query with every gallery image from one matrix product.

    Gallery tokens lie on rows and query tokens on columns, ordered by token and then by query, so that either maximum
    runs over whole contiguous vectors: this is several times faster than a maximum over the last axis.

    Args:
        queries: (Q, T, D) and mask.
        gallery: (N, S, D) and mask.
        forward: whether to compute s(query, gallery image), means over T of maxima over S.
        backward: whether to compute s(gallery image, query), means over S of maxima over T.

    Returns:
        (Q, N) each, or None where not asked for; bfloat16 products are averaged in float32.
    """
    (q, t, d), (g, s, _) = queries.tokens.shape, gallery.tokens.shape
    columns = queries.tokens.transpose(0, 1).reshape(t * q, d)
    grid = gallery.tokens.reshape(g * s, d) @ columns.T
    ahead = back = None
    if forward:
        cosines = grid.view(g, s, t * q)
        if gallery.mask is not None:
            cosines = cosines.masked_fill(~gallery.mask.unsqueeze(-1), -torch.inf)
        best = cosines.amax(dim=1).view(g, t, q)
        ahead = _mean(best, None if queries.mask is None else queries.mask.T.unsqueeze(0)).T
    if backward:
        cosines = grid.view(g * s, t, q)
        if queries.mask is not None:
            cosines = cosines.masked_fill(~queries.mask.T.unsqueeze(0), -torch.inf)
        best = cosines.amax(dim=1).view(g, s, q)
        back = _mean(best, None if gallery.mask is None else gallery.mask.unsqueeze(-1)).T
    return ahead, back


def rounded(unit: Unit, dtype: torch.dtype) -> tuple[Unit, Tensor]:
    """Token sets in the type of a fast first pass, and what the rounding cost.

    Returns:
        The sets in `dtype`, as multiples of 1 / INTEGER_UNIT if that is int16; and (N,) float32: the largest norm, over
        a set's tokens, of rounded minus unrounded token.
    """
    if dtype == unit.tokens.dtype:
        return unit, torch.zeros(len(unit.tokens))
    if dtype == torch.int16:
        # In place, because fresh memory costs more here than arithmetic.
        whole = (unit.tokens.float() * INTEGER_UNIT).round_()
        tokens = whole.to(dtype)
        loss = torch.linalg.vector_norm(whole.div_(INTEGER_UNIT).sub_(unit.tokens), dim=-1).amax(dim=1)
        return Unit(tokens, unit.mask), loss
    tokens = unit.tokens.to(dtype)
    return Unit(tokens, unit.mask), torch.linalg.vector_norm(tokens.float() - unit.tokens, dim=-1).amax(dim=1)


def rounding_bound(dtype: torch.dtype, dim: int, tokens: int, query_loss: Tensor, gallery_loss: float) -> Tensor:
    """Largest possible difference between a score of `tile` on `rounded` tokens and the exact score.

    A maximum is 1-Lipschitz and a mean keeps a bound, so a score is off by at most what one cosine is off by, and the
    rounding of the mean. With x', y' the rounded tokens, |x'.y' - x.y| <= |x'-x| |y'| + |y'-y| (Cauchy-Schwarz). The
    float32 sum of D products is off by at most D units of 2^-24 in any order (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), taken twice for units that add products pairwise; normalising, the mean and
    the last rounding to float32 add a few. A product stored in bfloat16 loses half a unit of its last place, 2^-9 for
    cosines below 1; `tile` cuts larger ones down to 1.

    Args:
        dtype: float32, bfloat16, or int16 for `models.native.Kernel.fine`, whose products are exact.
        dim: D.
        tokens: the larger of T and S.
        query_loss: (Q,) from `rounded`.
        gallery_loss: the largest of the gallery's.

    Returns:
        (Q,) float32.
    """
    arithmetic = (2 * dim + tokens + 16) * 2.0**-24
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        arithmetic += 2.0**-7  # torch may then round the factors to bfloat16
    stored = 2.0**-9 if dtype == torch.bfloat16 else 0.0
    return 1.01 * (query_loss * (1 + gallery_loss) + gallery_loss + arithmetic) + stored


def exact_scores(
    query: Tensor,
    gallery: Tensor,
    direction: Direction,
    query_mask: Tensor | None = None,
    gallery_mask: Tensor | None = None,
) -> Tensor:
    """The score as the project defines it: computed in float64, rounded once to float32.

    So it depends neither on how the work was cut into blocks nor on the machine, save for one case in about 10^8 where
    the last bit of float64 decides a rounding.

    Args:
        query: (T, D), one reference as stored: any floating type, any scale; not checked, see `normalised`.
        gallery: (C, S, D), its candidates, likewise.
        direction: "reference" gives s(query, candidate), "candidate" gives s(candidate, query).
        query_mask: (T,) bool.
        gallery_mask: (C, S) bool.

    Returns:
        (C,) float32.
    """
    count, s, d = gallery.shape
    rows, columns = query.double(), gallery.double()
    # Clearing what a mask hides keeps its NaNs out of the product.
    if query_mask is not None:
        rows = rows.masked_fill(~query_mask.unsqueeze(-1), 0.0)
    if gallery_mask is not None:
        columns = columns.masked_fill(~gallery_mask.unsqueeze(-1), 0.0)
    # This way round the product is twice as fast as with the gallery on rows.
    grid = (rows @ columns.reshape(count * s, d).T).view(len(rows), count, s)
    grid = grid / _lengths(rows, query_mask).view(-1, 1, 1) / _lengths(columns, gallery_mask)
    if direction == "reference":
        if gallery_mask is not None:
            grid = grid.masked_fill(~gallery_mask, -torch.inf)
        return _mean(grid.amax(dim=2).unsqueeze(0), None if query_mask is None else query_mask.view(1, -1, 1))[
            0
        ].float()
    if query_mask is not None:
        grid = grid.masked_fill(~query_mask.view(-1, 1, 1), -torch.inf)
    best = grid.amax(dim=0).unsqueeze(-1)
    return _mean(best, None if gallery_mask is None else gallery_mask.unsqueeze(-1))[:, 0].float()


def _lengths(tokens: Tensor, mask: Tensor | None) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(tokens, dim=-1)
    return norms if mask is None else norms.masked_fill(~mask, 1.0)


def _mean(best: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over axis 1 of (g, tokens, q), over the tokens that count; sums bfloat16 in float32."""
    # In bfloat16 the product of two unit vectors may be stored as 1.008; see `rounding_bound`.
    wide = best.float().clamp(max=1.0) if best.dtype == torch.bfloat16 else best
    if mask is None:
        return wide.mean(dim=1)
    return wide.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)


def _name(image: int, names: Sequence[str] | None) -> str:
    return f"image {names[image]!r}" if names is not None else f"token set {image}"
