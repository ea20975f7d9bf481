"""Artifacts as the earlier stages write them, small and without running those stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.artifact import Artifact, Counts, seal, write_table
from data.keys import file_digest
from data.schemas import IMAGES, TRIPLETS
from tests.models.tiny_blip2 import noise_images


def images_artifact(folder: Path, count: int, seed: int = 0) -> Artifact:
    """`count` noise images as files in `folder`/files, listed in the artifact `folder`/ingest; ids image-000, ..."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, image in enumerate(noise_images(count, seed)):
        path = files / f"image-{index:03d}.png"
        if not path.exists():
            image.save(path)
        width, height = image.size
        rows.append(
            {
                "image_id": path.stem, "uri": str(path), "width": width, "height": height,
                "sha256": file_digest(path), "label": None, "caption": None,
            }
        )  # fmt: skip
    out = folder / "ingest"
    write_table(out / "images.parquet", pa.Table.from_pylist(rows, schema=IMAGES), IMAGES)
    return sealed(out, "ingest", count)


def triplets_artifact(folder: Path, rows: Sequence[tuple[str, str, str | None]]) -> Artifact:
    """Triplets (reference, modification, target) numbered t-0000, ..."""
    table = [
        dict.fromkeys(TRIPLETS.names)
        | {
            "triplet_id": f"t-{index:04d}", "reference_id": reference, "modification": modification,
            "target_id": target, "recipe": "test",
            "provenance": {
                "model": "m", "revision": "r", "prompt_digest": "p", "caption_prompt_digest": "c", "request_ids": [],
            },
        }
        for index, (reference, modification, target) in enumerate(rows)
    ]  # fmt: skip
    out = folder / "generate"
    write_table(out / "triplets.parquet", pa.Table.from_pylist(table, schema=TRIPLETS), TRIPLETS)
    return sealed(out, "generate", len(rows))


def sealed(
    folder: Path,
    stage: str,
    rows: int = 0,
    config: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> Artifact:
    """Seal a folder as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counts(read=rows, kept=rows, written=rows)
    return seal(folder, counts, stage=stage, config=config, facts=facts)
