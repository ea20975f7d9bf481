"""Encode: from images, or their captions, to token sets, which ranking and training start from."""

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from data.artifact import Artifact, Counts
from data.config import Resources, StageConfig
from data.keys import digest
from data.progress import progress
from data.schemas import IMAGES
from data.tokens import HalfFloats, write_tokens
from models.checkpoints import resolve
from models.encoders import load_image_encoder
from tasks.auto import tower_dtype
from tasks.features import Features, Picture, compute, pictures
from tasks.room import require_disk
from tasks.shards import cut, spread
from tasks.stage import NO_FACTS, stage
from tasks.store import home

if TYPE_CHECKING:
    from models.encoders import ImageEncoder

_kept = threading.local()

# Rows copied at a time from the feature folder into the artifact.
CHUNK = 1024


class EncodeConfig(StageConfig):
    """Which network encodes what, and in which numbers."""

    checkpoint: str = Field(
        "tiny_blip2",
        description="a shipped checkpoint, a folder, or a Hugging Face id: BLIP-2 or, to rank only, CLIP, SigLIP, DINO",
    )
    of: Literal["image", "caption"] = Field(
        "image", description="what of an image is encoded; captions are those of a stage caption, else the source's"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the vision tower; auto: float16 where there is a GPU, else float32"
    )


def encode_facts(config: EncodeConfig, images: Artifact, captions: Artifact | None = None) -> dict[str, Any]:
    """What the key has to know: the weights behind the checkpoint's name, and the dtype behind "auto"."""
    return {"weights": resolve(config.checkpoint).revision, "dtype": tower_dtype(config.dtype)}


@stage(version=1, facts=encode_facts)
def encode(
    out: Path,
    config: EncodeConfig,
    images: Artifact,
    captions: Artifact | None = None,
    *,
    facts: Mapping[str, Any] = NO_FACTS,
    resources: Resources,
) -> Counts:
    """Write tokens.arrow: (T, D) float16 tokens of every image, L2-normalised, ordered by id.

    Of captions the text feature is written, (1, D); an image without one is dropped as such. Tokens of images are filed
    below CIRQUE_HOME/features by image, so that an interrupted run continues, and images that were
    encoded by an earlier run, of whatever folder, are not encoded again.

    Raises:
        ValueError: naming an image whose file is gone or changed, or whose tokens are not finite numbers; if captions
            are asked for and no image has one, or the checkpoint reads no texts.
    """
    refuse_half_on_cpu(config.dtype, str(facts["dtype"]), resources)
    if config.of == "caption":
        return _encode_captions(out, config, images, captions, facts, resources)
    rows = pictures(images)
    keys = [row.sha256 for row in rows]
    folder = home() / "features" / f"tokens-{digest({'weights': facts['weights'], 'dtype': facts['dtype']})[:20]}"
    features = Features(folder)
    computed = 0
    if features.missing(keys):
        if resources.spread == "here":
            computed = _compute(features, images, rows, _load(config, facts, resources), resources)
        else:
            computed = _spread(folder, images, config, facts, resources, rows, features.missing(keys))
            features = Features(folder)
    assert features.shape is not None
    tokens, dim = features.shape
    require_disk(out, 2 * 2 * len(rows) * tokens * dim, f"the tokens of {len(rows):,} images, twice while written,")
    _merge(out, [row.image_id for row in rows], keys, features)
    return Counts(
        read=len(rows),
        kept=len(rows),
        written=len(rows),
        detail={"encoded": computed, "reused": len(rows) - computed, "tokens": tokens, "dim": dim},
    )


def _load(config: EncodeConfig, facts: Mapping[str, Any], resources: Resources) -> "ImageEncoder":
    encoder = load_image_encoder(config.checkpoint, resources.device, facts["dtype"])
    if encoder.digest != facts["weights"]:
        raise ValueError(f"the files of checkpoint {config.checkpoint} changed while the run started; run again")
    return encoder


def _captions(images: Artifact, captions: Artifact | None) -> tuple[int, list[tuple[str, str]]]:
    """How many images there are, and (id, caption) of those with a caption, ordered by id."""
    table = images.read(IMAGES, "images.parquet").select(["image_id", "caption"])
    if captions is not None:
        from tasks.caption import CAPTIONS

        rows = captions.read(CAPTIONS, "captions.parquet").to_pylist()
    else:
        rows = [row for row in table.to_pylist() if (row["caption"] or "").strip()]
    if not rows:
        raise ValueError(
            f"none of the {len(table):,} images has a caption, so there is nothing to encode with of=caption; let a"
            " model write captions (the stage caption, a view's `caption`), take a source that gives them, or of=image"
        )
    return len(table), [(row["image_id"], row["caption"]) for row in rows]


def _compute(
    features: Features, images: Artifact, rows: Sequence[Picture], encoder: "ImageEncoder", resources: Resources
) -> int:
    """File the tokens of the images that have none; how many these were."""
    return compute(
        features, images, rows, encoder, lambda pixels: encoder.image_tokens(encoder.vision_of(pixels)).tokens,
        resources,
    )  # fmt: skip


def _spread(
    folder: Path,
    images: Artifact,
    config: EncodeConfig,
    facts: Mapping[str, Any],
    resources: Resources,
    rows: Sequence[Picture],
    absent: set[str],
) -> int:
    """The same by shards, wherever the resources send them."""
    todo = list({row.sha256: row for row in rows if row.sha256 in absent}.values())
    work = partial(_encode_shard, folder, images, config, dict(facts), resources)
    with progress(len(rows), "images", len(rows) - len(todo)) as advance:
        for shard, _ in spread("encode shard", work, cut(todo, resources), resources):
            advance(len(shard))
    return len(todo)


def _encode_shard(
    folder: Path,
    images: Artifact,
    config: EncodeConfig,
    facts: Mapping[str, Any],
    resources: Resources,
    shard: Sequence[Picture],
) -> int:
    key = (digest(config.model_dump(mode="json")), digest(dict(facts)), resources.device)
    if getattr(_kept, "key", None) != key:  # a worker loads a network once, not for every shard
        _kept.encoder, _kept.key = _load(config, facts, resources), key
    return _compute(Features(folder), images, shard, _kept.encoder, resources)


def _encode_captions(
    out: Path,
    config: EncodeConfig,
    images: Artifact,
    captions: Artifact | None,
    facts: Mapping[str, Any],
    resources: Resources,
) -> Counts:
    """Write tokens.arrow from the text features of captions."""
    import torch

    count, rows = _captions(images, captions)
    encoder = _load(config, facts, resources)
    parts = []
    with progress(len(rows), "captions") as advance, torch.inference_mode():
        for start in range(0, len(rows), resources.batch_size):
            some = [caption for _, caption in rows[start : start + resources.batch_size]]
            parts.append(encoder.text_tokens(some).tokens.to("cpu", torch.float16).numpy())
            advance(len(some))
    array = np.concatenate(parts)
    write_tokens(out / "tokens.arrow", [image_id for image_id, _ in rows], array)
    without = count - len(rows)
    return Counts(
        read=count,
        kept=len(rows),
        dropped={"no_caption": without} if without else {},
        written=len(rows),
        detail={"tokens": array.shape[1], "dim": array.shape[2], "cut_captions": encoder.truncations},
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
