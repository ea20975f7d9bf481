"""Which triplets of the tiny world are right: its scenes are known, and its texts can be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import JsonValue

from data.artifact import Artifact, Counts, write_table
from data.config import StageConfig
from data.metrics import bootstrap_interval
from data.schemas import TRIPLETS
from data.tiny_edits import holds
from data.tiny_language import read_modification
from data.tiny_lessons import Lesson, is_right
from data.tiny_random_edits import pool_scene
from tasks.stage import stage

TRUTH = pa.schema([pa.field("triplet_id", pa.string(), nullable=False), pa.field("right", pa.bool_(), nullable=False)])


def is_true(row: Mapping[str, Any], seed: int) -> bool:
    """Whether a triplet's modification leads from its reference to its target, or its target text says where.

    Args:
        row: of TRIPLETS, over images of the source `tiny_world`.
        seed: of that source.
    """
    scene = pool_scene(int(row["reference_id"]), seed)
    if row["target_id"] is not None:
        answer = {"modification": row["modification"]}
        scenes = (scene, pool_scene(int(row["target_id"]), seed))
        return is_right(Lesson("mra_cir/modification", scenes, {}, answer), answer)
    fields = {"modification": row["modification"]}
    answer = {"target_text": str(row["target_text"])}
    return is_right(Lesson("mvft_ji/target_text", (scene,), fields, answer), answer)


def true_kinds(row: Mapping[str, Any], seed: int) -> frozenset[str] | None:
    """The kinds of change that a triplet's modification names and that its two scenes show.

    A change shows if it alone brings the reference nearer to the target; what else the modification says may be wrong.

    Args:
        row: of TRIPLETS, with a target image, over images of the source `tiny_world`.
        seed: of that source.

    Returns:
        Some of `data.tiny_edits.KINDS`; None where the modification is not of the world's language.
    """
    edits = read_modification(row["modification"])
    if not edits:
        return None
    reference, target = (pool_scene(int(row[name]), seed) for name in ("reference_id", "target_id"))
    return frozenset(edit.kind for edit in edits if holds(edit, reference, target))


class TruthConfig(StageConfig):
    """Which tiny world the images are of."""

    seed: int = 0


@stage(version=3)
def truth(out: Path, config: TruthConfig, triplets: Artifact) -> Counts:
    """Write truth.parquet: of every triplet whether it is right. `detail` has the percentage with its 95 % interval.

    Only for images of the source `tiny_world`; a wrong triplet is counted, not dropped.
    """
    rows = triplets.read(TRIPLETS, "triplets.parquet").to_pylist()
    right = [is_true(row, config.seed) for row in rows]
    table = pa.table({"triplet_id": [row["triplet_id"] for row in rows], "right": right}, schema=TRUTH)
    write_table(out / "truth.parquet", table, TRUTH)
    detail: dict[str, JsonValue] = {}
    if rows:
        low, high = bootstrap_interval([100.0 * one for one in right])
        detail = {"right": round(100 * sum(right) / len(right), 2), "low": round(low, 2), "high": round(high, 2)}
    return Counts(read=len(rows), kept=len(rows), written=len(rows), detail=detail)
