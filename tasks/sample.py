"""Sample: one target per reference, from a window of ranks."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, JsonValue, PositiveInt, model_validator

from data.artifact import Artifact, Counts, write_table
from data.config import StageConfig
from data.keys import digest
from data.schemas import PAIRS, RANKING
from tasks.stage import stage

VIEW = "tokens"
"""Which similarity found a pair: here that of the encoder's token sets."""


class SampleConfig(StageConfig):
    """The window of ranks, and the seed of the draw."""

    # Ranks 51 to 60, inclusive: MRA-CIR, Method Summary. Absolute ranks mean less in a larger pool.
    low: PositiveInt = Field(default=51, description="first rank of the window, counted from 1 without the reference")
    high: PositiveInt = Field(default=60, description="last rank of the window, inclusive")
    seed: int = 0
    limit: PositiveInt | None = Field(default=None, description="at most so many pairs; those left out are counted")

    @model_validator(mode="after")
    def _in_order(self) -> "SampleConfig":
        if self.low > self.high:
            raise ValueError(f"need 1 <= low <= high, got low={self.low}, high={self.high}")
        return self


@stage(version=1)
def sample(out: Path, config: SampleConfig, ranking: Artifact) -> Counts:
    """Write pairs.parquet: one pair per reference whose ranking reaches the window.

    A target's rank is uniform over the window and depends only on the seed and the reference's id, so another pool
    or another limit leaves the other references' draws as they are. A ranking that ends before the window does is
    too short: drawing from its rest would be drawing from another window.

    Raises:
        ValueError: if the ranking was cut off before the window ends.
    """
    depth = ranking.manifest["config"].get("depth")
    if depth is not None and depth < config.high:
        raise ValueError(
            f"the window ends at rank {config.high}, but the ranking keeps only {depth} candidates;"
            f" set rank.depth to at least {config.high}"
        )
    table = ranking.read(RANKING, "ranking.parquet")
    lengths = table.group_by("reference_id").aggregate([("rank", "max")])
    references = dict(zip(lengths["reference_id"].to_pylist(), lengths["rank_max"].to_pylist(), strict=True))
    alone = ranking.counts.dropped.get("no_candidate", 0)  # these have no row in the ranking
    reached = [reference for reference, length in references.items() if length >= config.high]
    chosen = _limited(reached, config)
    wanted = {reference: _drawn_rank(config, reference) for reference in chosen}
    pairs = _pairs(table, config, wanted)
    if len(pairs) != len(chosen):
        raise ValueError(f"{len(chosen)} references were drawn for, but the ranking has {len(pairs)} of their ranks")
    write_table(out / "pairs.parquet", pairs, PAIRS)
    dropped = {
        "ranking_too_short": len(references) + alone - len(reached),
        "over_limit": len(reached) - len(chosen),
    }
    return Counts(
        read=len(references) + alone,
        kept=len(pairs),
        dropped={reason: count for reason, count in dropped.items() if count},
        written=len(pairs),
        detail=_detail(pairs, config),
    )


def pair_id(reference_id: str, target_id: str, view: str) -> str:
    """The stable name of a pair, 32 hexadecimal digits: the same pair has it in every pool and run."""
    return digest([reference_id, target_id, view])[:32]


def _drawn_rank(config: SampleConfig, reference: str) -> int:
    """A rank of the window; 2^256 is so much larger than any window that the remainder is uniform."""
    return config.low + _hash("rank", config.seed, reference) % (config.high - config.low + 1)


def _limited(references: list[str], config: SampleConfig) -> list[str]:
    """The references to keep: a seeded choice that grows with the limit and never swaps."""
    if config.limit is None or len(references) <= config.limit:
        return references
    return sorted(references, key=lambda reference: (_hash("limit", config.seed, reference), reference))[: config.limit]


def _hash(purpose: str, seed: int, reference: str) -> int:
    return int(hashlib.sha256(f"{purpose}\0{seed}\0{reference}".encode()).hexdigest(), 16)


def _pairs(table: pa.Table, config: SampleConfig, wanted: dict[str, int]) -> pa.Table:
    """The rows of the ranking at the wanted ranks, as pairs ordered by id."""
    window = table.filter(
        pc.and_(pc.greater_equal(table["rank"], config.low), pc.less_equal(table["rank"], config.high))
    )
    rows = [
        {
            "pair_id": pair_id(row["reference_id"], row["candidate_id"], VIEW),
            "reference_id": row["reference_id"],
            "target_id": row["candidate_id"],
            "rank": row["rank"],
            "score": row["score"],
            "view": VIEW,
        }
        for batch in window.to_batches(max_chunksize=65_536)
        for row in batch.to_pylist()
        if wanted.get(row["reference_id"]) == row["rank"]
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["pair_id"])), schema=PAIRS)


def _detail(pairs: pa.Table, config: SampleConfig) -> dict[str, JsonValue]:
    """Figures for the report: the scores, and how often an image is drawn as a target."""
    detail: dict[str, JsonValue] = {"window": [config.low, config.high]}
    if len(pairs) == 0:
        return detail
    # In float64, because a histogram of float32 values one rounding apart is an error in numpy.
    scores: npt.NDArray[np.float64] = pairs["score"].to_numpy().astype(np.float64)
    counts, edges = np.histogram(scores, bins=20)
    drawn = Counter(pairs["target_id"].to_pylist())
    detail["score"] = {
        "min": float(scores.min()),
        "mean": float(scores.mean()),
        "max": float(scores.max()),
        "quantiles": {str(at): float(np.quantile(scores, at / 100)) for at in (5, 25, 50, 75, 95)},
        "histogram": {"counts": counts.tolist(), "edges": [float(edge) for edge in edges]},
    }
    detail["targets"] = {"distinct": len(drawn), "most_drawn": max(drawn.values())}
    return detail
