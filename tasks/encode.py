"""Encode: from images to token sets of the base checkpoint, which ranking and training start from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from data.artifact import Artifact, Counts
from data.config import Resources, StageConfig
from data.keys import digest
from data.tokens import HalfFloats, write_tokens
from models.checkpoints import resolve
from models.encoders import load_encoder
from tasks.features import Features, compute, pictures
from tasks.stage import NO_FACTS, stage
from tasks.store import home

# Rows copied at a time from the feature folder into the artifact.
CHUNK = 1024


class EncodeConfig(StageConfig):
    """Which network encodes, and in which numbers."""

    checkpoint: str = Field("tiny_blip2", description="a shipped checkpoint, a folder, or a Hugging Face id")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the vision tower; auto: float16 where there is a GPU, else float32"
    )


def encode_facts(config: EncodeConfig, images: Artifact) -> dict[str, Any]:
    """What the key has to know: the weights behind the checkpoint's name, and the dtype behind "auto"."""
    import torch

    auto = "float16" if torch.cuda.is_available() else "float32"
    return {
        "weights": resolve(config.checkpoint).revision,
        "dtype": auto if config.dtype == "auto" else config.dtype,
    }


@stage(version=1, facts=encode_facts)
def encode(
    out: Path, config: EncodeConfig, images: Artifact, *, facts: Mapping[str, Any] = NO_FACTS, resources: Resources
) -> Counts:
    """Write tokens.arrow: (T, D) float16 tokens of every image, L2-normalised, ordered by id.

    Tokens are filed below CIRQUE_HOME/features by image, so that an interrupted run continues, and images that were
    encoded by an earlier run, of whatever folder, are not encoded again.

    Raises:
        ValueError: naming an image whose file is gone or changed, or whose tokens are not finite numbers.
    """
    refuse_half_on_cpu(config.dtype, str(facts["dtype"]), resources)
    rows = pictures(images)
    keys = [row.sha256 for row in rows]
    folder = home() / "features" / f"tokens-{digest({'weights': facts['weights'], 'dtype': facts['dtype']})[:20]}"
    features = Features(folder)
    computed = 0
    if features.missing(keys):
        encoder = load_encoder(config.checkpoint, resources.device, facts["dtype"])
        if encoder.digest != facts["weights"]:
            raise ValueError(f"the files of checkpoint {config.checkpoint} changed while the run started; run again")
        computed = compute(
            features, images, rows, encoder, lambda pixels: encoder.image_tokens(encoder.vision_of(pixels)).tokens,
            resources,
        )  # fmt: skip
    assert features.shape is not None
    tokens, dim = features.shape
    _merge(out, [row.image_id for row in rows], keys, features)
    return Counts(
        read=len(rows),
        kept=len(rows),
        written=len(rows),
        detail={"encoded": computed, "reused": len(rows) - computed, "tokens": tokens, "dim": dim},
    )


def refuse_half_on_cpu(asked: str, resolved: str, resources: Resources) -> None:
    """Refuse to run float16 on a CPU because "auto" found a GPU that the resources then forbid: it would take hours."""
    if asked == "auto" and resolved == "float16" and resources.device == "cpu":
        raise ValueError("dtype=auto means float16 on this machine, which has a GPU; with device=cpu set dtype=float32")


def _merge(out: Path, ids: list[str], keys: list[str], features: Features) -> None:
    """Write the artifact's one file, a chunk of rows in memory at a time."""
    assert features.shape is not None
    raw = out / "tokens.raw"
    array: HalfFloats = np.memmap(raw, dtype=np.float16, mode="w+", shape=(len(ids), *features.shape))
    for start in range(0, len(ids), CHUNK):
        array[start : start + CHUNK] = features.take(keys[start : start + CHUNK])
    write_tokens(out / "tokens.arrow", ids, array)
    raw.unlink()
