"""Rank: from token sets to every image's nearest images, exactly."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, JsonValue, PositiveInt

from data.artifact import Artifact, Counts, read_table, sync, write_atomically, write_table
from data.config import Resources, StageConfig
from data.progress import progress
from data.schemas import RANKING
from data.tokens import read_tokens
from tasks.stage import stage

if TYPE_CHECKING:  # and within functions: they import torch, which takes seconds that a cached run need not spend
    from models.ranking import Ranked, Shortlist, TokenSets

SHOWN_RANKS = (1, 10, 20, 50, 51, 60, 100, 200, 500, 1000)
"""Ranks whose mean score the report shows."""


class RankConfig(StageConfig):
    """How deep to rank, and by which of the two similarities."""

    depth: PositiveInt = Field(
        default=100, description="candidates kept per image; at least the end of the rank window"
    )
    direction: Literal["reference", "candidate"] = Field(
        default="reference",
        description="whose tokens are averaged: reference is s(reference, candidate), candidate is s(candidate, "
        "reference); their windows overlap little",
    )


@stage(version=1)
def rank(out: Path, config: RankConfig, tokens: Artifact, *, resources: Resources | None = None) -> Counts:
    """Write ranking.parquet: the `depth` nearest other images of every image, by reference and then by rank.

    The score is `models.similarity`'s; the reference itself is no candidate, ranks start at 1, ties go by id. Panels
    of references are filed in parts/, so that an interrupted run continues.

    Raises:
        ValueError: naming an image with a NaN or zero token.
    """
    from models.ranking import TokenSets

    ids, array = read_tokens(tokens.file("tokens.arrow"))
    sets = TokenSets(ids, array)
    finished = out / "ranking.parquet"
    if not finished.exists():
        files = _work(sets, config, out / "parts")
        write_atomically(finished, lambda temporary: _join(files, temporary))
    shutil.rmtree(out / "parts", ignore_errors=True)
    return _count(finished, len(ids), array.shape, config)


def _work(sets: "TokenSets", config: RankConfig, folder: Path) -> list[Path]:
    """Rank the panels that are still missing; each leaves its part of the ranking and the shortlists after it."""
    from models.sweep import panels, quickest, rank_panel

    folder.mkdir(parents=True, exist_ok=True)
    count = len(sets)
    todo = panels(sets)
    files = [folder / f"{panel.start:09d}-{panel.stop:09d}.parquet" for panel in todo]
    # The shortlists are renamed to their place after the part is written, so the last of them says what is done.
    done = [place for place, panel in enumerate(todo) if (folder / f"shortlist-{panel.stop:09d}").exists()]
    first = done[-1] + 1 if done else 0
    dtype = quickest(sets.tokens.shape[1], sets.tokens.shape[2], count * (count - 1) // 2)
    with progress(count, "references", done=todo[first].start if first < len(todo) else count) as advance:
        for panel, file in list(zip(todo, files, strict=True))[first:]:
            before, after = (folder / f"shortlist-{at:09d}" for at in (panel.start, panel.stop))
            unfinished = folder / "shortlist-unfinished"
            shortlist = _shortlist(unfinished, count, config.depth, before if panel.start else None)
            ranked = rank_panel(sets, panel, shortlist, config.direction, dtype)
            write_table(file, _table(sets.ids, panel, ranked), RANKING)
            sync(unfinished)
            os.replace(unfinished, after)
            sync(folder)
            before.unlink(missing_ok=True)
            advance(len(panel))
    return files


def _shortlist(path: Path, count: int, depth: int, before: Path | None) -> "Shortlist":
    """The shortlists of all images, in a memory-mapped file: a copy of `before`, or empty ones."""
    import torch

    from models.ranking import Shortlist

    empty = Shortlist.empty(0, count, depth)
    size = count * empty.values.shape[1]
    if before is not None:
        shutil.copyfile(before, path)
    numbers = np.memmap(path, dtype=np.float32, mode="r+" if before is not None else "w+", shape=2 * size + count)
    values, indices, bound = np.split(numbers, [size, 2 * size])
    if before is None:
        values[:], bound[:] = -np.inf, 0
        indices.view(np.int32)[:] = -1
    best, rows = (torch.from_numpy(part.reshape(count, -1)) for part in (values, indices.view(np.int32)))
    return Shortlist(depth, count, best, rows, torch.from_numpy(bound))


def _table(ids: Sequence[str], rows: range, ranked: "Ranked") -> pa.Table:
    """The ranking of some references, as a table."""
    kept = ranked.indices >= 0
    width = ranked.indices.shape[1]
    names = pa.array(ids, pa.string())
    reference = np.repeat(np.arange(rows.start, rows.stop), width)[kept.reshape(-1)]
    ranks = np.tile(np.arange(1, width + 1, dtype=np.int32), len(rows))[kept.reshape(-1)]
    columns = [names.take(pa.array(reference)), ranks, names.take(pa.array(ranked.indices[kept])), ranked.scores[kept]]
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
