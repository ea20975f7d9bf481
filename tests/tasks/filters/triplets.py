"""Triplets made up for filters, and what they need beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.artifact import Artifact, Counts, seal, write_table
from data.config import Resources
from data.schemas import TRIPLETS
from data.tokens import write_tokens
from tasks.filters import Filter, Measured, World
from tests.tasks.small_artifacts import sealed

RESOURCES = Resources(workers=1, batch_size=4)
REFERENCE = "a small red circle in the top left on a white background"
TARGET = "a large blue square in the top left on a white background"
PROVENANCE = {"model": "m", "revision": "r", "prompt_digest": "p", "caption_prompt_digest": "c", "request_ids": []}


def triplet(modification: str, **fields: Any) -> dict[str, Any]:
    """A row of TRIPLETS; without further fields it has two captions and a target image."""
    plain = dict.fromkeys(TRIPLETS.names) | {
        "triplet_id": "t-0000", "reference_id": "i000", "target_id": "i001", "reference_caption": REFERENCE,
        "target_caption": TARGET, "score": 0.5, "recipe": "test", "provenance": PROVENANCE,
    }  # fmt: skip
    return plain | {"modification": modification} | fields


def measured(one: Filter, *rows: Mapping[str, Any], world: World | None = None) -> list[Measured]:
    """What a filter finds in some rows."""
    return list(one.measure(iter(rows), world))  # type: ignore[arg-type]


def triplets_of(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Artifact:
    """An artifact of rows, which get the ids t-0000, t-0001, ..."""
    numbered = [dict(row) | {"triplet_id": f"t-{place:04d}"} for place, row in enumerate(rows)]
    write_table(folder / "triplets.parquet", pa.Table.from_pylist(numbered, schema=TRIPLETS), TRIPLETS)
    counts = Counts(read=len(rows), kept=len(rows), written=len(rows))
    return seal(folder, counts, stage="generate", config={"rows": len(rows)})


def tokens_of(folder: Path, vectors: Mapping[str, Sequence[float]], **manifest: dict[str, Any]) -> Artifact:
    """An artifact of tokens, one per image."""
    folder.mkdir(parents=True)
    array = np.array([vectors[image] for image in sorted(vectors)], dtype=np.float16)[:, None, :]
    write_tokens(folder / "tokens.arrow", sorted(vectors), array)
    return sealed(folder, "encode", len(vectors), **manifest)
