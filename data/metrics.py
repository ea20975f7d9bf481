"""Retrieval metrics and their uncertainty. Metrics take ids and give numbers in [0, 1]."""

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.float64]

# Resampled values held at a time: keeps 1,000 rounds over 100,000 queries at 32 MB.
BLOCK = 4_000_000


def recall_at(k: int, ranked: Sequence[str], target: str) -> float:
    """1 if the target is among the first k, else 0.

    Args:
        k: >= 1.
        ranked: ids, best first; must reach rank k unless the gallery is smaller. Ties are the caller's to order.
        target: the id that was wanted.
    """
    _check_cut(k, ranked)
    return float(target in ranked[:k])


def average_precision_at(k: int, ranked: Sequence[str], relevant: Collection[str]) -> float:
    """Precision at each hit among the first k, summed, over the number of hits that were possible: min(k, relevant).

    CIRCO's definition: without the minimum a query with more than k targets could never reach 1.

    Args:
        k: >= 1.
        ranked: ids, best first; must reach rank k unless the gallery is smaller. Ties are the caller's to order.
        relevant: the ids that were wanted, at least one.

    Raises:
        ValueError: if no id is relevant, or one is ranked twice and would count twice.
    """
    _check_cut(k, ranked)
    wanted = set(relevant)
    if not wanted:
        raise ValueError("average precision needs at least one relevant id, got none")
    hits = 0
    total = 0.0
    for rank, one in enumerate(ranked[:k], start=1):
        if one in wanted:
            hits += 1
            total += hits / rank
    return total / min(k, len(wanted))


def bootstrap_interval(values: Values, seed: int = 0, rounds: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean: its 2.5th and 97.5th percentile over resamples with replacement.

    Args:
        values: one finite number per query, in any unit; the interval has the same.
        seed: of the resampling.
        rounds: number of resamples, >= 1.

    Raises:
        ValueError: if there is no value, or one is not finite.
    """
    data = _finite(values)
    _check_rounds(rounds)
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // len(data))
    means = [
        data[generator.integers(len(data), size=(min(step, rounds - start), len(data)))].mean(axis=1)
        for start in range(0, rounds, step)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def binomial_lower(successes: int, trials: int, confidence: float = 0.95) -> float:
    """Clopper and Pearson's exact lower bound on a success rate (Biometrika 26, 1934), one-sided.

    Args:
        successes: 0 <= successes <= trials.
        trials: independent ones, >= 1.
        confidence: probability with which the true rate is no smaller than the bound, in (0, 1).

    Returns:
        The rate at which so many successes or more have probability 1 - confidence; 0 if there were none.
    """
    if not (0 <= successes <= trials and trials >= 1 and 0 < confidence < 1):
        raise ValueError(f"need 0 <= successes <= trials, got {successes} of {trials}, confidence {confidence}")
    low, high = 0.0, 1.0
    for _ in range(60 if successes else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(successes, trials, middle) <= 1 - confidence else (low, middle)
    return low


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a success rate, two-sided; arguments as of `binomial_lower`."""
    side = (1 + confidence) / 2
    return binomial_lower(successes, trials, side), 1 - binomial_lower(trials - successes, trials, side)


def _tail(successes: int, trials: int, rate: float) -> float:
    """Probability of so many successes or more."""
    return math.fsum(
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(rate)
            + (trials - k) * math.log1p(-rate)
        )
        for k in range(successes, trials + 1)
    )


def paired_test(a: Values, b: Values, seed: int = 0, rounds: int = 10_000) -> float:
    """Two-sided p-value of "the paired means are equal": the sign of each difference is flipped at random.

    The share of sign patterns, the observed one included, whose mean difference is at least as far from 0 as observed;
    never 0, and 1 where all pairs are equal.

    Args:
        a, b: value of each query under the two methods, same order.
        seed: of the sign patterns.
        rounds: number of patterns drawn, >= 1; the smallest p-value is 1 / (rounds + 1).

    Raises:
        ValueError: if the lengths differ, there is no value, or one is not finite.
    """
    first, second = _finite(a), _finite(b)
    if len(first) != len(second):
        raise ValueError(f"a paired test needs the same queries twice, got {len(first)} and {len(second)} values")
    _check_rounds(rounds)
    differences = first - second
    observed = abs(differences.mean())
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // len(differences))
    extreme = 0
    for start in range(0, rounds, step):
        signs = generator.integers(2, size=(min(step, rounds - start), len(differences))) * 2 - 1
        # Rounding must not turn a pattern as far out as the observed one into one just inside.
        extreme += int((np.abs((signs * differences).mean(axis=1)) >= observed - 1e-12).sum())
    return (extreme + 1) / (rounds + 1)


def _check_cut(k: int, ranked: Sequence[str]) -> None:
    if k < 1:
        raise ValueError(f"need k >= 1, got {k}")
    if len(set(ranked[:k])) != len(ranked[:k]):
        raise ValueError(f"an id is ranked twice among the first {k}; a ranking names every image once")


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"need at least one round, got {rounds}")


def _finite(values: Values) -> npt.NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError(f"need one value per query and at least one query, got an array of shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(f"{int((~np.isfinite(data)).sum())} of {len(data)} values are not finite")
    return data
