"""Windows: several windows of one ranking side by side, before one of them is paid for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PositiveInt, field_validator

from data.artifact import Artifact, Counts, write_table
from data.config import StageConfig
from data.draws import chosen_references
from data.windows import Window
from tasks.candidates import Candidates, Reach, by_reference, drawn_place, references
from tasks.stage import stage

WINDOWS = pa.schema(
    [
        pa.field("window", pa.string(), nullable=False),
        pa.field("references", pa.int64(), nullable=False),  # whose ranking reaches the window
        pa.field("candidates", pa.int64(), nullable=False),  # in all their windows
        pa.field("score_mean", pa.float64()),  # of the candidates; null without any
        pa.field("score_5", pa.float64()),  # the 5th percentile of their scores
        pa.field("score_95", pa.float64()),
        pa.field("near_duplicates", pa.float64()),  # share of candidates above the threshold
        pa.field("targets", pa.int64(), nullable=False),  # distinct images, one drawn per reference
        pa.field("most_drawn", pa.int64(), nullable=False),  # times that the most frequent one was
        pa.field("repeated", pa.float64()),  # share of draws that gave an image already drawn
        pa.field("note", pa.string()),  # why the window cannot be sampled
    ]
)
"""One row per window."""

SHOWN = pa.schema(
    [
        pa.field("reference_id", pa.string(), nullable=False),
        pa.field("window", pa.string()),  # null for a rank of the row of examples
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("target_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)
"""What the report shows of a few references: candidates at some ranks, and what each window draws."""

RANKS = (1, 10, 55, 100, 1000)
"""Ranks shown as pictures, as far as the ranking goes."""


class WindowsConfig(StageConfig):
    """Which windows to compare, and over how many references."""

    windows: tuple[Window, ...] = Field(
        default=(Window(low=1, high=10), Window(low=11, high=20), Window(), Window(low=91, high=100)),
        description="such as 1-10,percentile 0-1,score 0.8-0.9; what the ranking does not reach is listed as such",
    )
    # MegaPairs (arXiv 2412.14475) takes pairs above a cosine of 0.96 for near duplicates; other encoders differ.
    near_duplicate: Annotated[float, Field(ge=-1, le=1)] = Field(
        default=0.96, description="scores above this count as near duplicates in the table"
    )
    references: PositiveInt = Field(default=2000, description="at most so many references, chosen by seed")
    examples: Annotated[int, Field(ge=0, le=20, description="references shown in pictures")] = 4
    seed: int = Field(default=0, description="of the choice of references and of the draws")

    @field_validator("windows")
    @classmethod
    def _each_once(cls, windows: tuple[Window, ...]) -> tuple[Window, ...]:
        twice = [str(one) for one, times in Counter(windows).items() if times > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)}: given twice; want each window once")
        return windows


@dataclass
class Tally:
    """One window while the references go by."""

    reach: Reach | None
    note: str | None
    references: int = 0
    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    drawn: Counter[str] = field(default_factory=Counter)


@stage(version=2)
def windows(out: Path, config: WindowsConfig, ranking: Artifact) -> Counts:
    """Write windows.parquet, one row per window, and shown.parquet, the candidates that the report shows.

    Each reference draws one target per window, as `sample` with the same seed and no filter does. Rows are the
    references looked at: all that are ranked, or as many of them as were asked for; the detail says of how many.
    """
    tallies = {str(window): _tally(window, ranking) for window in config.windows}
    chosen = chosen_references(references(ranking), config.references, config.seed)
    examples = frozenset(chosen_references(chosen, config.examples, config.seed)) if config.examples else frozenset()
    wanted, shown = frozenset(chosen), []
    for one in by_reference(ranking):
        if one.reference_id not in wanted:
            continue
        draws = [(name, place) for name, tally in tallies.items() if (place := _meet(tally, one, config)) is not None]
        if one.reference_id in examples:
            ranks = [(None, rank - 1) for rank in RANKS if rank <= len(one.scores)]
            shown += [_row(one, name, place) for name, place in (*ranks, *draws)]
    table = [_figures(name, tally, config.near_duplicate) for name, tally in tallies.items()]
    write_table(out / "windows.parquet", pa.Table.from_pylist(table, schema=WINDOWS), WINDOWS)
    write_table(out / "shown.parquet", pa.Table.from_pylist(shown, schema=SHOWN), SHOWN)
    return Counts(
        read=len(chosen),
        kept=len(chosen),
        written=len(table),
        detail={"near_duplicate": config.near_duplicate, "ranked_references": ranking.counts.kept},
    )


def _tally(window: Window, ranking: Artifact) -> Tally:
    try:
        return Tally(Reach(window, ranking), None)
    except ValueError as error:  # the ranking ends before the window does: the others can still be compared
        return Tally(None, str(error))


def _meet(tally: Tally, one: Candidates, config: WindowsConfig) -> int | None:
    """Count a reference in a window; the place of the target it draws, if the window has one for it."""
    if tally.reach is None:
        return None
    places = tally.reach.places(one)
    if isinstance(places, str):
        return None
    tally.references += 1
    tally.scores.append(one.scores[places].copy())  # a slice would keep the batch that it is of
    place = int(places[drawn_place(config.seed, one.reference_id, len(places))])
    tally.drawn[one.ids[place].as_py()] += 1
    return place


def _row(one: Candidates, window: str | None, place: int) -> dict[str, Any]:
    target = {"target_id": one.ids[place].as_py(), "score": float(one.scores[place])}
    return {"reference_id": one.reference_id, "window": window, "rank": place + 1, **target}


def _figures(name: str, tally: Tally, near_duplicate: float) -> dict[str, Any]:
    """A row of WINDOWS."""
    scores = np.concatenate(tally.scores) if tally.scores else np.empty(0, dtype=np.float32)
    some = len(scores) > 0
    ends: Sequence[float] = np.quantile(scores.astype(np.float64), [0.05, 0.95]).tolist() if some else []
    note = tally.note
    if note is None and not some:
        note = "no reference has a candidate in it"
    return {
        "window": name,
        "references": tally.references,
        "candidates": len(scores),
        "score_mean": float(scores.mean(dtype=np.float64)) if some else None,
        "score_5": ends[0] if some else None,
        "score_95": ends[1] if some else None,
        "near_duplicates": float((scores > near_duplicate).mean()) if some else None,
        "targets": len(tally.drawn),
        "most_drawn": max(tally.drawn.values(), default=0),
        "repeated": 1 - len(tally.drawn) / tally.references if tally.references else None,
        "note": note,
    }
