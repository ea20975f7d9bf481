"""Stages that make sets of triplets of others: united, drawn, spoiled on purpose, asked for again. For studies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, JsonValue

from data.artifact import Artifact, Counts, write_table
from data.config import StageConfig
from data.draws import lot
from data.schemas import PAIRS, REJECTED, TRIPLETS
from tasks.stage import stage
from tasks.truth import true_kinds
from tasks.writing import plain


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


class PickConfig(StageConfig):
    """How many triplets are drawn, and whether all kinds of change give equally many. Only for the tiny world."""

    edits: Literal["balanced", "natural"] = Field(
        description="balanced: all kinds of change equally often; natural: as often as the triplets have them"
    )
    share: Annotated[float, Field(gt=0, le=1, description="of the triplets whose kind of change is known")]
    seed: int = Field(0, description="of the draw")
    world: int = Field(0, description="seed of the tiny world that the images are of")


@stage(version=1)
def pick(out: Path, config: PickConfig, triplets: Artifact) -> Counts:
    """Write triplets.parquet: a share of those whose kind of change is known, ordered as they were.

    A triplet counts for one kind: of those that `true_kinds` finds, the one that fewest triplets have (of equals, the
    first by name). Balanced takes equally many of each kind, to within one; a kind with too few gives all it has, and
    the others share what is left to draw. Natural takes as many of the same triplets, whatever their kind.

    Triplets without a target image, in other words than the tiny world's, or of which no named change is true, have no
    kind and are dropped. `detail` has by kind the triplets `known` and `drawn`, each in one kind, and how many of the
    drawn ones have it among others (`named`).
    """
    rows = triplets.read(TRIPLETS, "triplets.parquet").to_pylist()
    kinds, dropped = _known_kinds(rows, config.world)
    common = Counter(kind for found in kinds.values() for kind in found)
    own = {place: min(found, key=lambda kind: (common[kind], kind)) for place, found in kinds.items()}
    known = Counter(own.values())
    order = sorted(own, key=lambda place: lot("pick", config.seed, rows[place]["triplet_id"]))
    wanted = max(1, round(config.share * len(order))) if order else 0
    drawn = order[:wanted] if config.edits == "natural" else _firsts(order, own, _even_parts(known, wanted))
    table = pa.Table.from_pylist([rows[place] for place in sorted(drawn)], schema=TRIPLETS)
    write_table(out / "triplets.parquet", table, TRIPLETS)
    if len(drawn) < len(order):
        dropped["not_drawn"] = len(order) - len(drawn)
    named = Counter(kind for place in drawn for kind in kinds[place])
    counted = {"known": known, "drawn": Counter(own[place] for place in drawn), "named": named}
    detail: dict[str, JsonValue] = {
        name: {kind: counts[kind] for kind in sorted(common)} for name, counts in counted.items()
    }
    return Counts(read=len(rows), kept=len(drawn), dropped=dict(dropped), written=len(drawn), detail=detail)


def _known_kinds(rows: Sequence[Mapping[str, Any]], world: int) -> tuple[dict[int, frozenset[str]], Counter[str]]:
    """The kinds of the rows that have any, by place, and how many have none, by reason."""
    kinds: dict[int, frozenset[str]] = {}
    dropped = Counter[str]()
    for place, row in enumerate(rows):
        if row["target_id"] is None:
            dropped["no_target_image"] += 1
        elif found := true_kinds(row, world):
            kinds[place] = found
        else:
            dropped["not_understood" if found is None else "no_named_change_is_true"] += 1
    return kinds, dropped


def _even_parts(supply: Mapping[str, int], wanted: int) -> dict[str, int]:
    """How many to take of each kind, `wanted` in all: equal to within one, but of none more than there are."""
    parts = {}
    for at, kind in enumerate(sorted(supply, key=lambda kind: (supply[kind], kind))):
        parts[kind] = min(supply[kind], wanted // (len(supply) - at))
        wanted -= parts[kind]
    return parts


def _firsts(order: Sequence[int], own: Mapping[int, str], parts: Mapping[str, int]) -> list[int]:
    """Of every kind the first places, as many as its part."""
    return [place for kind, part in parts.items() for place in [one for one in order if own[one] == kind][:part]]


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


@stage(version=2)
def again(out: Path, config: AgainConfig, filtered: Artifact) -> Counts:
    """Write pairs.parquet: the pairs of the triplets that a filter dropped, for `generate`, each once.

    Rows are dropped triplets; those without a target image have no pair, and several may share one.
    """
    rows = _dropped_by(config.dropped_by, filtered)
    found = [row for row in rows if row["pair_id"] is not None and row["rank"] is not None]
    pairs = {row["pair_id"]: {name: row[name] for name in PAIRS.names} for row in found}
    table = pa.Table.from_pylist([pair for _, pair in sorted(pairs.items())], schema=PAIRS)
    write_table(out / "pairs.parquet", table, PAIRS)
    lost = len(rows) - len(found)
    return Counts(read=len(rows), kept=len(found), dropped={"no_pair": lost} if lost else {}, written=len(pairs))


@stage(version=1)
def renew(out: Path, config: AgainConfig, rewritten: Artifact, filtered: Artifact) -> Counts:
    """Write triplets.parquet: of the triplets that were written anew, those that take the place of a dropped one.

    A pair with several texts has all of them written anew. Left out are those whose triplet was not dropped by the
    filter, and those that say what a kept triplet of their pair says already.
    """
    wanted = {row["triplet_id"] for row in _dropped_by(config.dropped_by, filtered)}
    kept = filtered.read(TRIPLETS, "triplets.parquet").select(["pair_id", "modification"]).to_pylist()
    said = {(row["pair_id"], plain(row["modification"])) for row in kept}
    rows = rewritten.read(TRIPLETS, "triplets.parquet").to_pylist()
    dropped = Counter[str]()
    fresh = []
    for row in rows:
        if row["triplet_id"] not in wanted:
            dropped["not_asked_for"] += 1
        elif (row["pair_id"], plain(row["modification"])) in said:
            dropped["says_what_was_kept"] += 1
        else:
            fresh.append(row)
    write_table(out / "triplets.parquet", pa.Table.from_pylist(fresh, schema=TRIPLETS), TRIPLETS)
    return Counts(read=len(rows), kept=len(fresh), dropped=dict(dropped), written=len(fresh))


def _dropped_by(name: str, filtered: Artifact) -> list[dict[str, Any]]:
    """The triplets that a filter dropped."""
    reasons = filtered.read(REJECTED, "rejected.parquet").to_pylist()
    names = {row["row_id"] for row in reasons if row["reason"] == name}
    return [row for row in filtered.read(TRIPLETS, "dropped.parquet").to_pylist() if row["triplet_id"] in names]
