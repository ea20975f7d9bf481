"""Sample: one target per reference, from a window of its ranking."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, JsonValue, PositiveInt, field_validator, model_validator

from data.artifact import Artifact, Counts, write_table
from data.draws import chosen_references, lot
from data.keys import digest
from data.schemas import PAIRS
from data.windows import Window
from tasks.candidates import Reach, by_reference, drawn_place, references
from tasks.figures import score_figures, target_figures
from tasks.stage import stage


class SampleConfig(Window):
    """The window, what is passed over in it, and the seed of the draw."""

    near_duplicate: float | None = Field(
        default=None, ge=-1, le=1, description="pass over candidates that score higher: near duplicates; none: keep all"
    )
    least_score: float | None = Field(
        default=None, ge=-1, le=1, description="pass over candidates that score lower; none: keep all"
    )
    most_drawn: PositiveInt | None = Field(
        default=None, description="draw an image at most so often as a target; none: as often as it comes"
    )
    seed: int = 0
    limit: PositiveInt | None = Field(
        default=None, description="draw for so many references, chosen by seed; only these are ranked"
    )
    view: str = Field(
        default="tokens", min_length=1, description="which similarity ranked them: what pairs say they come from"
    )

    @field_validator("view")
    @classmethod
    def _is_a_word(cls, view: str) -> str:
        if view != view.strip() or not view.isprintable():
            raise ValueError(f"a view's name is a word, got {view!r}")
        return view

    @model_validator(mode="after")
    def _leaves_something(self) -> "SampleConfig":
        least, most = self.least_score, self.near_duplicate
        if least is not None and most is not None and least > most:
            raise ValueError(f"no score is at least least_score={least} and at most near_duplicate={most}")
        if self.by == "score" and any(end is not None and not self.low <= end <= self.high for end in (least, most)):
            raise ValueError(
                f"least_score={least} and near_duplicate={most} have to lie within the window of {self.low} to "
                f"{self.high}; a window by score needs neither"
            )
        return self


class Eligible(NamedTuple):
    """A reference and what may be drawn for it: n candidates with their places in the ranking, rank 1 at place 0."""

    reference_id: str
    places: npt.NDArray[np.intp]
    ids: list[str]
    scores: npt.NDArray[np.float32]


@stage(version=2)
def sample(out: Path, config: SampleConfig, ranking: Artifact) -> Counts:
    """Write pairs.parquet: one pair per reference whose ranking reaches the window and holds something to draw there.

    A target is drawn uniformly from what is left of the window and depends only on the seed, the reference's id and
    how much that is: another pool or another limit leaves the other references' draws as they are. `most_drawn` ties
    references to each other: they draw in a seeded order, each from the targets that may still be drawn.

    A ranking that ends before the window does is too short: drawing from its rest would be drawing from another
    window.

    Raises:
        ValueError: if the ranking was cut off before the window ends, or percentiles hold no rank.
    """
    dropped: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    reach = Reach(config, ranking)
    waiting = _eligible(config, reach, ranking, dropped, passed)
    # The cap needs all windows at once; without it a window is forgotten when its target is drawn.
    drawn = (
        (_drawn(config, one, range(len(one.ids))) for one in waiting)
        if config.most_drawn is None
        else _capped(config, list(waiting), dropped)
    )
    rows = sorted(drawn, key=lambda row: str(row["pair_id"]))
    pairs = pa.Table.from_pylist(rows, schema=PAIRS)
    write_table(out / "pairs.parquet", pairs, PAIRS)
    return Counts(
        read=ranking.counts.read,
        kept=len(pairs),
        dropped=dict(sorted(dropped.items())),
        written=len(pairs),
        detail=_detail(reach, passed, pairs),
    )


def pair_id(reference_id: str, target_id: str, view: str) -> str:
    """The stable name of a pair, 32 hexadecimal digits: the same pair has it in every pool and run."""
    return digest([reference_id, target_id, view])[:32]


def _eligible(
    config: SampleConfig, reach: Reach, ranking: Artifact, dropped: Counter[str], passed: Counter[str]
) -> Iterator[Eligible]:
    """The references that can be drawn for; the others are counted."""
    chosen = (
        None if config.limit is None else frozenset(chosen_references(references(ranking), config.limit, config.seed))
    )
    ranked = 0
    for candidates in by_reference(ranking):
        ranked += 1
        if chosen is not None and candidates.reference_id not in chosen:
            dropped["over_limit"] += 1
            continue
        places = reach.places(candidates)
        if isinstance(places, str):
            dropped[places] += 1
            continue
        left = _filtered(config, candidates.scores, places, passed)
        if isinstance(left, str):
            dropped[left] += 1
            continue
        # Copies: a slice would keep the whole batch in memory as long as it waits.
        ids = candidates.ids.take(pa.array(left)).to_pylist()
        yield Eligible(candidates.reference_id, left, ids, candidates.scores[left])
    _count_unranked(config, ranking, ranked, dropped)


def _count_unranked(config: SampleConfig, ranking: Artifact, ranked: int, dropped: Counter[str]) -> None:
    """Images without a row in the ranking: alone in their pool, or left out of it because they are over the limit."""
    alone = ranking.counts.dropped.get("no_candidate", 0)
    left_out = "not_ranked" if config.limit is None else "over_limit"
    for reason, count in (("ranking_too_short", alone), (left_out, ranking.counts.read - ranked - alone)):
        if count:
            dropped[reason] += count


def _filtered(
    config: SampleConfig, scores: npt.NDArray[np.float32], places: npt.NDArray[np.intp], passed: Counter[str]
) -> npt.NDArray[np.intp] | str:
    """What the filters on the score leave of a window; or which of them left nothing."""
    for reason, limit, kept in (
        ("near_duplicate", config.near_duplicate, np.less_equal),
        ("score_too_low", config.least_score, np.greater_equal),
    ):
        if limit is None:
            continue
        left = places[kept(scores[places], limit)]
        if len(left) < len(places):
            passed[reason] += len(places) - len(left)
        if not len(left):
            return reason
        places = left
    return places


def _drawn(config: SampleConfig, one: Eligible, choice: Sequence[int]) -> dict[str, Any]:
    """One of the candidates as a pair."""
    at = choice[drawn_place(config.seed, one.reference_id, len(choice))]
    return {
        "pair_id": pair_id(one.reference_id, one.ids[at], config.view),
        "reference_id": one.reference_id,
        "target_id": one.ids[at],
        "rank": int(one.places[at]) + 1,
        "score": float(one.scores[at]),
        "view": config.view,
    }


def _capped(config: SampleConfig, waiting: list[Eligible], dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Pairs in which no image is a target more than `most_drawn` times."""
    assert config.most_drawn is not None
    drawn: Counter[str] = Counter()
    # In a seeded order, because the first ones choose freely: by id, one end of the alphabet always would.
    for one in sorted(waiting, key=lambda one: lot("turn", config.seed, one.reference_id)):
        free = [at for at, target in enumerate(one.ids) if drawn[target] < config.most_drawn]
        if not free:
            dropped["targets_drawn_too_often"] += 1
            continue
        row = _drawn(config, one, free)
        drawn[row["target_id"]] += 1
        yield row


def _detail(reach: Reach, passed: Counter[str], pairs: pa.Table) -> dict[str, JsonValue]:
    """Figures for the report: the window, the scores, and how often an image is drawn as a target."""
    detail = reach.detail()
    if passed:
        detail["candidates_passed_over"] = dict(sorted(passed.items()))
    if len(pairs):
        detail["score"] = score_figures(pairs["score"].to_numpy())
        detail["targets"] = target_figures(Counter(pairs["target_id"].to_pylist()))
    return detail
