"""Exact ranking in parts that survive a kill: a sweep over all pairs, or some references against all images."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.artifact import sync, write_table
from data.progress import progress
from data.schemas import RANKING
from tasks.room import require_disk, require_memory

if TYPE_CHECKING:  # and within functions: they import torch, which takes seconds that a cached run need not spend
    import torch

    from models.ranking import Ranked, Shortlist, TokenSets

Direction = Literal["reference", "candidate"]
Rows = npt.NDArray[np.int64]


def sweep(
    sets: "TokenSets", wanted: Rows, depth: int, direction: Direction, dtype: "torch.dtype", folder: Path
) -> list[Path]:
    """Score all pairs, both ends of a pair from one product, and file the rankings of the images wanted.

    Each panel leaves its part and the shortlists after it.
    """
    from models.sweep import panels, rank_panel

    count = len(sets)
    todo = panels(sets)
    _require_room(sets, len(todo[0]), depth, folder)
    files = [folder / f"{panel.start:09d}-{panel.stop:09d}.parquet" for panel in todo]
    # The shortlists are renamed to their place after the part is written, so the last of them says what is done.
    done = [place for place, panel in enumerate(todo) if (folder / f"shortlist-{panel.stop:09d}").exists()]
    first = done[-1] + 1 if done else 0
    with progress(count, "references", done=todo[first].start if first < len(todo) else count) as advance:
        for panel, file in list(zip(todo, files, strict=True))[first:]:
            before, after = (folder / f"shortlist-{at:09d}" for at in (panel.start, panel.stop))
            unfinished = folder / "shortlist-unfinished"
            shortlist = _shortlist(unfinished, count, depth, before if panel.start else None)
            ranked = rank_panel(sets, panel, shortlist, direction, dtype)
            rows = np.arange(panel.start, panel.stop)
            kept = np.isin(rows, wanted)
            part = type(ranked)(ranked.indices[kept], ranked.scores[kept])
            write_table(file, ranking_table(sets.ids, rows[kept], part), RANKING)
            sync(unfinished)
            os.replace(unfinished, after)
            sync(folder)
            before.unlink(missing_ok=True)
            advance(len(panel))
    return files


def alone(
    sets: "TokenSets", rows: Rows, depth: int, direction: Direction, dtype: "torch.dtype", folder: Path
) -> list[Path]:
    """Rank some images among all; each panel of references leaves its part."""
    from models.ranking import top_k
    from models.sweep import PANEL_BYTES

    size = max(1, PANEL_BYTES // (4 * sets.tokens.shape[1] * sets.tokens.shape[2]))
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    _require_room(sets, min(size, len(rows)), depth, None)
    files = [folder / f"some-{at:09d}.parquet" for at in range(len(parts))]
    done = sum(len(part) for part, file in zip(parts, files, strict=True) if file.exists())
    with progress(len(rows), "references", done=done) as advance:
        for part, file in zip(parts, files, strict=True):
            if not file.exists():
                ranked = top_k(sets.subset(part), sets, depth, direction, part, dtype)
                write_table(file, ranking_table(sets.ids, part, ranked), RANKING)
                advance(len(part))
    return files


def _require_room(sets: "TokenSets", panel: int, depth: int, folder: Path | None) -> None:
    """Refuse what would not fit: a panel's tokens and scores in memory, and in a sweep all shortlists on the disk."""
    from models.ranking import STRIP_BYTES, STRIP_IMAGES, Shortlist

    count, tokens, dim = sets.tokens.shape
    kept, strip = Shortlist.width(count, depth), max(1, min(STRIP_IMAGES, STRIP_BYTES // (4 * tokens * dim), count))
    if folder is not None:
        size = 4 * count * (2 * kept + 1)
        require_disk(folder, 2 * size, f"rank: the shortlists of {count:,} images, twice while written,")
    # The tokens as found and normalised; a strip's scores, and the shortlists that they are joined to.
    size = panel * (2 * 4 * tokens * dim + 4 * strip + 8 * (kept + strip))
    require_memory(size, f"rank: a panel of {panel:,} of {count:,} images", "free as much, or rank on a larger machine")


def ranking_table(ids: Sequence[str], rows: Rows, ranked: "Ranked") -> pa.Table:
    """The ranking of some references, as a table."""
    kept = ranked.indices >= 0
    width = ranked.indices.shape[1]
    names = pa.array(ids, pa.string())
    reference = np.repeat(rows, width)[kept.reshape(-1)]
    ranks = np.tile(np.arange(1, width + 1, dtype=np.int32), len(rows))[kept.reshape(-1)]
    columns = [names.take(pa.array(reference)), ranks, names.take(pa.array(ranked.indices[kept])), ranked.scores[kept]]
    return pa.table(columns, schema=RANKING)


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
