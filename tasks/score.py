"""Score finished rankings of a real benchmark from files, without an image or a model."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import benchmarks
from data.annotations import Annotations, Scoring, choose
from data.orders import Ranking
from data.ranked_lists import read_lists, too_short
from data.rankings import expected_arrays, from_features, read_features
from data.scoring import Outcome, evaluate
from data.suggest import did_you_mean


@dataclass(frozen=True)
class Scored:
    """An outcome, and what a reader of the numbers should know."""

    outcome: Outcome
    notes: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        """Benchmark, split, protocol, counts and metrics in percent, as JSON.

        `gallery` adds up the galleries of a benchmark with several; it is null where none is known. `ties` counts the
        queries whose worth depends on the order of equal scores. A metric that no query carries is null.
        """
        annotations = self.outcome.annotations
        galleries = annotations.galleries.values()
        return {
            "benchmark": annotations.name,
            "split": annotations.split,
            "protocol": annotations.protocol.model_dump(),
            "queries": len(annotations.queries),
            "gallery": sum(map(len, galleries)) if galleries else None,
            "metrics": {metric: self.outcome.percent(metric) for metric in self.outcome.metrics},
            "ties": self.outcome.ties,
        }

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """95 % bootstrap interval of each metric, in percent."""
        return {metric: self.outcome.interval(metric) for metric in self.outcome.metrics}


def scorable() -> list[str]:
    """Benchmarks that are scored from files."""
    return [name for name in benchmarks.names() if hasattr(_module(name), "SCORING")]


def check_names(names: Sequence[str]) -> list[str]:
    """The names, without spaces around them.

    Raises:
        LookupError: for a benchmark that has no official protocol here; names the nearest.
        ValueError: for one that is named twice.
    """
    found = [name.strip() for name in names]
    for name in found:
        if name not in scorable():
            raise LookupError(f"no benchmark {name!r};{did_you_mean(name, scorable())}")
    if len(set(found)) < len(found):
        raise ValueError(f"a benchmark is named twice: {', '.join(found)}")
    return found


def score(
    benchmark: str,
    split: str,
    root: Path,
    choices: Mapping[str, str],
    predictions: Path | None = None,
    features: Path | None = None,
) -> Scored:
    """Score rankings, or the similarities of features, under a named protocol.

    Args:
        benchmark: name; see `scorable`.
        split: one with public targets.
        root: where the annotations lie.
        choices: protocol keys that change the scoring.
        predictions: JSON, see `data.ranked_lists.from_lists`.
        features: NPZ, see `data.rankings.from_features`; either this or predictions.

    Raises:
        LookupError, ValueError, OSError: say what was found, what was expected and what to do.
    """
    check_names([benchmark])
    if (predictions is None) == (features is None):
        raise ValueError("give either predictions or features")
    module = _module(benchmark)
    protocol = choose(benchmark, module.SCORING, choices, module.PROTOCOL)
    if predictions is not None:
        annotations = _read(benchmark, split, root, protocol)
        rankings = read_lists(annotations, predictions)
        return Scored(evaluate(annotations, rankings), _short(annotations, rankings))
    assert features is not None
    arrays = read_features(features)
    gallery = _gallery_ids(arrays) if benchmark == "circo" else None
    annotations = _read(benchmark, split, root, protocol, gallery)
    if not annotations.galleries:
        raise ValueError(
            f"{features} has no array 'gallery_ids' and {root} has no image_info_unlabeled2017.json: the rows of"
            " 'gallery' cannot be named. Add gallery_ids, the COCO ids as int64 in the order of the rows"
        )
    notes = (*_unused(annotations, arrays), *_absent(annotations))
    return Scored(evaluate(annotations, from_features(annotations, arrays)), notes)


def _module(name: str) -> Any:
    return importlib.import_module(f"data.benchmarks.{name}")


def _read(
    benchmark: str, split: str, root: Path, protocol: Scoring, gallery: tuple[str, ...] | None = None
) -> Annotations:
    more = {} if gallery is None else {"gallery": gallery}
    annotations: Annotations = _module(benchmark).read(split, root, protocol, **more)
    if not annotations.metrics:
        raise ValueError(
            f"{benchmark} {split} has no public targets, so nothing can be scored here; use --split val, or write a"
            " submission file for the benchmark's server where it has one"
        )
    return annotations


def _gallery_ids(arrays: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "gallery_ids" not in arrays:
        return None
    ids = arrays["gallery_ids"]
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"array 'gallery_ids' is {ids.dtype} of shape {ids.shape}; want COCO ids, (N,) int64")
    names = tuple(map(str, ids.tolist()))
    if len(set(names)) < len(names):
        raise ValueError(f"array 'gallery_ids' names {len(names) - len(set(names))} images twice; want each once")
    return names


def _short(annotations: Annotations, rankings: Mapping[str, Ranking]) -> tuple[str, ...]:
    short = too_short(annotations, rankings)
    if not short:
        return ()
    return (f"{short} of {len(rankings)} lists end before the deepest cut; what they do not rank counts as a miss",)


def _unused(annotations: Annotations, arrays: Mapping[str, Any]) -> tuple[str, ...]:
    unused = sorted(set(arrays) - set(expected_arrays(annotations)))
    return (f"not used: the arrays {', '.join(unused)}",) if unused else ()


def _absent(annotations: Annotations) -> tuple[str, ...]:
    """A note on ground truths outside the gallery: CIRCO's evaluator counts them as misses, and so do we."""
    known = frozenset(annotations.images)
    lost = {target for query in annotations.queries for target in query.targets} - known
    if annotations.name != "circo" or not lost:
        return ()
    return (f"{len(lost)} ground truths are not in the gallery of {len(known)} images and count as misses",)
