"""Figures that sum up pairs: their scores, and how often an image is drawn as a target."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue


def score_figures(found: npt.NDArray[np.float32]) -> dict[str, JsonValue]:
    """Of at least one score: ends, mean, quantiles and a histogram."""
    # In float64, because a histogram of float32 values one rounding apart is an error in numpy.
    scores: npt.NDArray[np.float64] = found.astype(np.float64)
    counts, edges = np.histogram(scores, bins=20)
    return {
        "min": float(scores.min()),
        "mean": float(scores.mean()),
        "max": float(scores.max()),
        "quantiles": {str(at): float(np.quantile(scores, at / 100)) for at in (5, 25, 50, 75, 95)},
        "histogram": {"counts": counts.tolist(), "edges": [float(edge) for edge in edges]},
    }


def target_figures(drawn: Mapping[str, int]) -> dict[str, JsonValue]:
    """How many images are targets, how often the one drawn most, and how many of them so and so often."""
    times = Counter(drawn.values())
    return {
        "distinct": len(drawn),
        "most_drawn": max(drawn.values()),
        "drawn_times": [[number, times[number]] for number in sorted(times)],
    }
