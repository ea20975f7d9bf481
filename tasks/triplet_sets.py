"""Stages that make sets of triplets of others: united, spoiled on purpose, asked for again. For studies."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from data.artifact import Artifact, Counts, write_table
from data.config import StageConfig
from data.draws import lot
from data.schemas import PAIRS, REJECTED, TRIPLETS
from tasks.stage import stage


class MergeConfig(StageConfig):
    """Nothing decides but the triplets."""


@stage(version=1)
def merge(out: Path, config: MergeConfig, sources: Mapping[str, Artifact]) -> Counts:
    """Write triplets.parquet: those of all sources, ordered by id, to train on them together.

    Raises:
        ValueError: if two sources have a triplet of the same id.
    """
    tables = {label: source.read(TRIPLETS, "triplets.parquet") for label, source in sources.items()}
    united = pa.concat_tables(tables.values()).sort_by("triplet_id")
    times = Counter(united["triplet_id"].to_pylist())
    twice = sorted(name for name, count in times.items() if count > 1)
    if twice:
        raise ValueError(f"{len(twice)} triplets are in two of the sources {', '.join(tables)}, such as {twice[0]!r}")
    write_table(out / "triplets.parquet", united, TRIPLETS)
    figures: dict[str, Any] = {label: len(table) for label, table in tables.items()}
    return Counts(read=len(united), kept=len(united), written=len(united), detail=figures)


class SomeConfig(StageConfig):
    """How many triplets are left."""

    share: Annotated[float, Field(gt=0, le=1, description="of the triplets, drawn by seed")]
    seed: int = 0


@stage(version=1)
def some(out: Path, config: SomeConfig, triplets: Artifact) -> Counts:
    """Write triplets.parquet: a share of them, ordered as they were; a smaller share is a part of a larger one."""
    table = triplets.read(TRIPLETS, "triplets.parquet")
    names = table["triplet_id"].to_pylist()
    order = sorted(range(len(names)), key=lambda place: lot("some", config.seed, names[place]))
    kept = table.take(sorted(order[: max(1, round(config.share * len(names)))]))
    write_table(out / "triplets.parquet", kept, TRIPLETS)
    left = len(names) - len(kept)
    return Counts(read=len(names), kept=len(kept), dropped={"not_drawn": left} if left else {}, written=len(kept))


class SpoilConfig(StageConfig):
    """How many triplets get a wrong modification."""

    share: Annotated[float, Field(ge=0, le=1, description="of the triplets, drawn by seed")]
    seed: int = 0


@stage(version=1)
def spoil(out: Path, config: SpoilConfig, triplets: Artifact) -> Counts:
    """Write triplets.parquet: the same, but some have the modification of another triplet.

    The chosen ones hand their modifications on in a circle, so that the texts stay those of the set; where two
    neighbours in it have the same words, the next but one gives its own. `detail` counts the spoiled ones.
    """
    table = triplets.read(TRIPLETS, "triplets.parquet")
    rows = table.to_pylist()
    order = sorted(range(len(rows)), key=lambda place: lot("spoil", config.seed, rows[place]["triplet_id"]))
    chosen = order[: round(config.share * len(rows))]
    texts = [rows[place]["modification"] for place in chosen]
    spoiled = 0
    for at, place in enumerate(chosen):
        others = (texts[(at + step) % len(texts)] for step in range(1, len(texts)))
        wrong = next((text for text in others if text != texts[at]), None)
        if wrong is not None:
            rows[place]["modification"] = wrong
            spoiled += 1
    write_table(out / "triplets.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    return Counts(read=len(rows), kept=len(rows), written=len(rows), detail={"spoiled": spoiled})


class AgainConfig(StageConfig):
    """Which dropped triplets are asked for again."""

    dropped_by: str = Field("judge", description="the filter that dropped them")


@stage(version=1)
def again(out: Path, config: AgainConfig, filtered: Artifact) -> Counts:
    """Write pairs.parquet: the pairs of the triplets that a filter dropped, for `generate`, each once.

    Rows are dropped triplets; those without a target image have no pair.
    """
    reasons = filtered.read(REJECTED, "rejected.parquet").to_pylist()
    wanted = {row["row_id"] for row in reasons if row["reason"] == config.dropped_by}
    rows = [row for row in filtered.read(TRIPLETS, "dropped.parquet").to_pylist() if row["triplet_id"] in wanted]
    pairs = {row["pair_id"]: row for row in rows if row["pair_id"] is not None and row["rank"] is not None}
    table = pa.Table.from_pylist(
        [{name: row[name] for name in PAIRS.names} for _, row in sorted(pairs.items())], schema=PAIRS
    )
    write_table(out / "pairs.parquet", table, PAIRS)
    lost = len(rows) - len(pairs)
    return Counts(
        read=len(rows), kept=len(pairs), dropped={"no_pair_of_its_own": lost} if lost else {}, written=len(pairs)
    )
