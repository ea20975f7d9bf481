"""Rank: from token sets to every image's nearest images, exactly."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, JsonValue, PositiveInt

from data.artifact import Artifact, Counts, read_table, write_atomically, write_table
from data.config import Resources, StageConfig
from data.progress import progress
from data.schemas import RANKING
from data.tokens import read_tokens
from models.ranking import TokenSets, top_k
from models.similarity import Direction
from tasks.stage import stage

SHARD = 1024
"""References ranked and filed together: what a kill can cost, and what memory grows with."""
SHOWN_RANKS = (1, 10, 20, 50, 51, 60, 100, 200, 500, 1000)
"""Ranks whose mean score the report shows."""


class RankConfig(StageConfig):
    """How deep to rank, and by which of the two similarities."""

    depth: PositiveInt = Field(
        default=100, description="candidates kept per image; at least the end of the rank window"
    )
    direction: Direction = Field(
        default="reference",
        description="whose tokens are averaged: reference is s(reference, candidate), candidate is s(candidate, "
        "reference); their windows overlap little",
    )


@stage(version=1)
def rank(out: Path, config: RankConfig, tokens: Artifact, *, resources: Resources | None = None) -> Counts:
    """Write ranking.parquet: the `depth` nearest other images of every image, by reference and then by rank.

    The score is `models.similarity`'s; the reference itself is no candidate, ranks start at 1, ties go by id. Shards
    of references are filed in parts/, so that an interrupted run continues.

    Raises:
        ValueError: naming an image with a NaN or zero token.
    """
    ids, array = read_tokens(tokens.file("tokens.arrow"))
    sets, parts = TokenSets(ids, array), out / "parts"
    starts = range(0, len(ids), SHARD)
    files = [parts / f"{start:09d}-{min(start + SHARD, len(ids)):09d}.parquet" for start in starts]
    finished = out / "ranking.parquet"
    if not finished.exists():
        ready = sum(min(SHARD, len(ids) - start) for start, file in zip(starts, files, strict=True) if file.exists())
        with progress(len(ids), "references", done=ready) as advance:
            for start, file in zip(starts, files, strict=True):
                if not file.exists():
                    rows = range(start, min(start + SHARD, len(ids)))
                    write_table(file, _shard(sets, rows, config), RANKING)
                    advance(len(rows))
        write_atomically(finished, lambda temporary: _join(files, temporary))
    shutil.rmtree(parts, ignore_errors=True)
    return _count(finished, len(ids), array.shape, config)


def _shard(sets: TokenSets, rows: range, config: RankConfig) -> pa.Table:
    """The ranking of some references, as a table."""
    some = slice(rows.start, rows.stop)
    queries = TokenSets(sets.ids[some], sets.tokens[some])
    ranked = top_k(queries, sets, config.depth, config.direction, exclude=rows)
    kept = ranked.indices >= 0
    ids = pa.array(sets.ids, pa.string())
    width = ranked.indices.shape[1]
    reference = np.repeat(np.arange(rows.start, rows.stop), width)[kept.reshape(-1)]
    ranks = np.tile(np.arange(1, width + 1, dtype=np.int32), len(rows))[kept.reshape(-1)]
    columns = [ids.take(pa.array(reference)), ranks, ids.take(pa.array(ranked.indices[kept])), ranked.scores[kept]]
    return pa.table(columns, schema=RANKING)


def _join(files: list[Path], target: Path) -> None:
    """One file of all parts, a part in memory at a time."""
    with pq.ParquetWriter(target, RANKING, compression="zstd") as writer:
        for file in files:
            writer.write_table(read_table(file, RANKING))


def _count(ranking: Path, images: int, shape: tuple[int, ...], config: RankConfig) -> Counts:
    """Count what was written, and average the scores at some ranks for the report."""
    written, ranked, totals = 0, 0, dict.fromkeys(SHOWN_RANKS, 0.0)
    counted = dict.fromkeys(SHOWN_RANKS, 0)
    with pq.ParquetFile(ranking) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["rank", "score"])
            written += len(table)
            ranked += pc.sum(pc.equal(table["rank"], 1)).as_py() or 0
            for shown in SHOWN_RANKS:
                scores = table.filter(pc.equal(table["rank"], shown))["score"]
                totals[shown] += pc.sum(scores).as_py() or 0.0
                counted[shown] += len(scores)
    means: dict[str, JsonValue] = {str(at): round(totals[at] / counted[at], 4) for at in SHOWN_RANKS if counted[at]}
    return Counts(
        read=images,
        kept=ranked,
        dropped={"no_candidate": images - ranked} if ranked < images else {},
        written=written,
        detail={
            "mode": "exact",
            "direction": config.direction,
            "tokens": shape[1],
            "dim": shape[2],
            "mean_score_at_rank": means,
        },
    )
