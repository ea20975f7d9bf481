"""Running the stage on a source, for the tests of sources."""

from pathlib import Path
from typing import Any

from data.artifact import Artifact, Counts, seal
from data.config import Resources
from data.schemas import IMAGES, REJECTED
from tasks.ingest import IngestConfig, ingest, listing_facts

RESOURCES = Resources(workers=2)


def ingested(out: Path, **settings: Any) -> tuple[Counts, Artifact]:
    """The stage's function alone on `IngestConfig(**settings)`, and its folder sealed."""
    config = IngestConfig(**settings)
    facts = listing_facts(config)
    out.mkdir(parents=True, exist_ok=True)
    counts = ingest.fn(out, config, facts=facts, resources=RESOURCES)
    return counts, seal(out, counts, stage="ingest", facts=facts)


def rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The images, whose ids must rise."""
    found: list[dict[str, Any]] = artifact.read(IMAGES, "images.parquet").to_pylist()
    ids = [row["image_id"] for row in found]
    assert ids == sorted(set(ids))
    return found


def reasons(artifact: Artifact) -> dict[str, str]:
    """The reason of every rejected item; each has a detail, and they are ordered."""
    found = artifact.read(REJECTED, "rejected.parquet").to_pylist()
    assert all(row["detail"] for row in found)
    assert [row["row_id"] for row in found] == sorted(row["row_id"] for row in found)
    return {row["row_id"]: row["reason"] for row in found}
