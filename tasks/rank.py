"""Rank: from token sets to images' nearest images, exactly or by audited candidates."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, model_validator

from data.artifact import Artifact, Counts, read_table, write_atomically
from data.config import Resources, StageConfig
from data.draws import chosen_references
from data.schemas import RANKING
from data.tokens import read_token_sets, tokens_shape
from tasks.rank_candidates import TOLD, CandidateConfig, Job, by_candidates
from tasks.rank_exact import Rows, alone, sweep
from tasks.rank_mode import BRIEF, Resolved, choose_index, choose_mode, duration, exact_hours, pace, way
from tasks.runs import say
from tasks.stage import NO_FACTS, stage

if TYPE_CHECKING:
    from models.ranking import TokenSets

SHOWN_RANKS = (1, 10, 20, 50, 51, 60, 100, 200, 500, 1000)
"""Ranks whose mean score the report shows."""


class RankConfig(StageConfig):
    """How deep to rank, whom, by which of the two similarities, and how."""

    depth: PositiveInt = Field(
        default=100, description="candidates kept per image; at least the end of the rank window"
    )
    direction: Literal["reference", "candidate"] = Field(
        default="reference",
        description="whose tokens are averaged: reference is s(reference, candidate), candidate is s(candidate, "
        "reference); their windows overlap little",
    )
    references: PositiveInt | None = Field(
        default=None, description="rank only so many references, drawn by their ids; all images stay candidates"
    )
    seed: int = Field(default=0, description="of the draw of references; the same as sample.seed draws the same")
    mode: Literal["auto", "exact", "candidates"] = Field(
        default="auto", description="auto: exact unless it would take more than `hours` on this machine"
    )
    hours: PositiveFloat = Field(default=3.0, description="longest time that auto gives to exact ranking")
    candidates: CandidateConfig = CandidateConfig()

    @model_validator(mode="after")
    def _enough_candidates(self) -> "RankConfig":
        if self.candidates.count < self.depth:
            raise ValueError(
                f"candidates.count is {self.candidates.count}, but depth keeps {self.depth} of them;"
                f" set candidates.count to {self.depth} or more"
            )
        return self

    def limited(self, references: int | None, seed: int) -> "RankConfig":
        """This config for a run that needs only so many references, if it does not say itself whom to rank."""
        if self.references is not None or references is None:
            return self
        return self.model_copy(update={"references": references, "seed": seed})


def rank_facts(config: RankConfig, tokens: Artifact) -> dict[str, Any]:
    """What `auto` means here: the mode, and the index of candidate mode."""
    images, per_image, dim = shape = tokens_shape(tokens.file("tokens.arrow"))
    references = min(config.references or images, images)
    found = Resolved(mode="exact")
    if config.mode == "auto":
        found = choose_mode(references, shape, config.depth, config.hours, config.candidates.audit)
    elif config.mode == "candidates":
        found = Resolved(mode="candidates")
    if found.mode == "exact":
        return {"mode": "exact"}
    asked = config.candidates.index
    index = choose_index(images, min(config.candidates.dim, per_image * dim)) if asked == "auto" else asked
    return {"mode": "candidates", "index": index}


@stage(version=2, facts=rank_facts)
def rank(
    out: Path,
    config: RankConfig,
    tokens: Artifact,
    *,
    facts: Mapping[str, Any] = NO_FACTS,
    resources: Resources | None = None,
) -> Counts:
    """Write ranking.parquet: the `depth` nearest other images of every reference, by reference and then by rank.

    The score is `models.similarity`'s; the reference itself is no candidate, ranks start at 1, ties go by id. Parts
    are filed in parts/, so that an interrupted run continues. Ranking by candidates also writes audit.json.

    Raises:
        ValueError: naming an image with a NaN or zero token.
    """
    from models.ranking import TokenSets

    sets = TokenSets(*read_token_sets(tokens.file("tokens.arrow")))
    chosen = set(chosen_references(sets.ids, config.references, config.seed))
    rows = np.array([row for row, name in enumerate(sets.ids) if name in chosen], dtype=np.int64)
    finished, parts = out / "ranking.parquet", out / "parts"
    resolved = Resolved(**(facts or rank_facts(config, tokens)))
    if not finished.exists():
        parts.mkdir(parents=True, exist_ok=True)
        files = _work(sets, rows, config, resolved, parts, resources or Resources())
        if (parts / TOLD).exists():
            shutil.copyfile(parts / TOLD, out / TOLD)
        write_atomically(finished, lambda temporary: _join(files, temporary))
    shutil.rmtree(parts, ignore_errors=True)
    return _count(out, len(sets), len(rows), sets.tokens.shape, config)


def _work(
    sets: "TokenSets", rows: Rows, config: RankConfig, resolved: Resolved, parts: Path, resources: Resources
) -> list[Path]:
    """Rank what is still missing; the files of the parts, in order."""
    import torch

    from models.pace import pays_to_sweep, quickest

    shape = (len(sets), sets.tokens.shape[1], sets.tokens.shape[2])
    dtype, time = quickest(shape[1], shape[2], len(rows) * len(sets) // 2), "some seconds"
    if len(rows) * len(sets) > BRIEF:
        measured = pace(shape[1], shape[2], config.depth)
        dtype = getattr(torch, measured.dtype)
        time = f"about {duration(3600 * exact_hours(len(rows), shape, measured))}"
    if resolved.mode == "candidates":
        assert resolved.index is not None
        whom = f"{len(rows):,} references against candidates among {len(sets):,} images"
        say(f"rank: {whom}, {way(dtype)}; exactly: {time}")
        job = Job(sets, rows, config.depth, config.direction, dtype, parts)
        files = by_candidates(job, config.candidates, resolved.index, gpus=resources.device != "cpu")
        if files is not None:
            return files
    if len(rows) * len(sets) > BRIEF or resolved.mode == "candidates":
        say(f"rank: {len(rows):,} references against {len(sets):,} images, exactly, {way(dtype)}: {time}")
    if pays_to_sweep(len(rows), len(sets)):
        return sweep(sets, rows, config.depth, config.direction, dtype, parts)
    return alone(sets, rows, config.depth, config.direction, dtype, parts)


def _join(files: list[Path], target: Path) -> None:
    """One file of all parts, a part in memory at a time."""
    with pq.ParquetWriter(target, RANKING, compression="zstd") as writer:
        for file in files:
            writer.write_table(read_table(file, RANKING))


def _count(out: Path, images: int, asked: int, shape: tuple[int, ...], config: RankConfig) -> Counts:
    """Count what was written, and average the scores at some ranks for the report."""
    written, ranked, totals = 0, 0, dict.fromkeys(SHOWN_RANKS, 0.0)
    counted = dict.fromkeys(SHOWN_RANKS, 0)
    with pq.ParquetFile(out / "ranking.parquet") as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["rank", "score"])
            written += len(table)
            ranked += pc.sum(pc.equal(table["rank"], 1)).as_py() or 0
            for shown in SHOWN_RANKS:
                scores = table.filter(pc.equal(table["rank"], shown))["score"]
                totals[shown] += pc.sum(scores).as_py() or 0.0
                counted[shown] += len(scores)
    means: dict[str, JsonValue] = {str(at): round(totals[at] / counted[at], 4) for at in SHOWN_RANKS if counted[at]}
    told = out / TOLD
    audit = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {"mode": "exact"}
    audit.pop("seconds_per_reference", None)  # another for every run; counts are the same for the same key
    dropped = {"over_limit": images - asked, "no_candidate": asked - ranked}
    return Counts(
        read=images,
        kept=ranked,
        dropped={reason: count for reason, count in dropped.items() if count},
        written=written,
        detail={
            **audit,
            "direction": config.direction,
            "tokens": shape[1],
            "dim": shape[2],
            "mean_score_at_rank": means,
        },
    )
