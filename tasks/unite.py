"""Unite: pairs that several views found, each remembering its own."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from data.artifact import Artifact, Counts, write_table
from data.config import StageConfig
from data.schemas import PAIRS
from tasks.figures import target_figures
from tasks.stage import stage


class UniteConfig(StageConfig):
    """Nothing decides but the pairs."""


@stage(version=1)
def unite(out: Path, config: UniteConfig, pairs: Artifact, more: Artifact) -> Counts:
    """Write pairs.parquet: all `pairs`, and those of `more` with a reference and target that are not among them.

    A pair that two views find stays that of the first, so that nobody writes its text twice; MegaPairs (arXiv
    2412.14475) unites the pairs of its three encoders likewise. Rows are ordered by pair_id.

    Raises:
        ValueError: if both have pairs of one view, which would hide where a pair comes from.
    """
    first, second = (one.read(PAIRS, "pairs.parquet") for one in (pairs, more))
    shared = set(pc.unique(first["view"]).to_pylist()) & set(pc.unique(second["view"]).to_pylist())
    if shared:
        raise ValueError(f"both have pairs of view {min(shared)!r}; give each view a name of its own with sample.view")
    known = set(zip(first["reference_id"].to_pylist(), first["target_id"].to_pylist(), strict=True))
    found = zip(second["reference_id"].to_pylist(), second["target_id"].to_pylist(), strict=True)
    fresh = pa.array([pair not in known for pair in found], pa.bool_())
    united = pa.concat_tables([first, second.filter(fresh)]).sort_by("pair_id")
    write_table(out / "pairs.parquet", united, PAIRS)
    read = len(first) + len(second)
    detail: dict[str, JsonValue] = {"pairs_of": dict(sorted(Counter(united["view"].to_pylist()).items()))}
    if len(united):
        detail["targets"] = target_figures(Counter(united["target_id"].to_pylist()))
    return Counts(
        read=read,
        kept=len(united),
        dropped={"found_by_another_view": read - len(united)} if read > len(united) else {},
        written=len(united),
        detail=detail,
    )
