"""A run's artifacts of any size, made up: triplets as the stages write them, over photographs that are really there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.artifact import Artifact, Counts, seal, write_table
from data.schemas import IMAGES, TRIPLETS, VERDICTS
from tasks.store import home

GROUP = 4096
"""Rows of a row group, as the stages write them."""
PHOTOS = 200
FILTERS = ("too_long", "too_generic", "image_talk", "reference_leak", "names_target", "same_text")
"""Those that look by default."""
WORDS = (
    "make it the circle square star red blue green larger smaller move left right add remove background",
    "and a of",
)


def made_up(rows: int, images: int) -> Artifact:
    """An artifact of `filter` with `rows` triplets over `images` images in the store of CIRQUE_HOME."""
    pictures = _images(images)
    folder = home() / "made" / "filter"
    folder.mkdir(parents=True)
    digits = np.random.default_rng(3).bytes(16 * rows).hex()
    ids = sorted(digits[start : start + 32] for start in range(0, len(digits), 32))
    with pq.ParquetWriter(folder / "triplets.parquet", TRIPLETS, compression="zstd") as file:
        for table in _triplets(ids, images):
            file.write_table(table)
    with pq.ParquetWriter(folder / "verdicts.parquet", VERDICTS, compression="zstd") as file:
        for table in _verdicts(ids):
            file.write_table(table)
    counts = Counts(read=rows, kept=rows, written=rows)
    return _stored(folder, seal(folder, counts, stage="filter", inputs={"images": pictures}))


def _images(count: int) -> Artifact:
    folder = home() / "made" / "ingest"
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for place in range(min(PHOTOS, count)):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / "images" / f"{place}.jpg")
    names = sorted(_name(place) for place in range(count))
    columns = {
        **{field.name: [None] * count if field.nullable else names for field in IMAGES},
        "image_id": names,
        "uri": [f"images/{place % PHOTOS}.jpg" for place in range(count)],
        "width": [640] * count,
        "height": [480] * count,
    }
    write_table(folder / "images.parquet", pa.table(columns, schema=IMAGES), IMAGES)
    counts = Counts(read=count, kept=count, written=count)
    return _stored(folder, seal(folder, counts, stage="ingest"))


def _stored(folder: Path, made: Artifact) -> Artifact:
    place = home() / "store" / made.stage / made.key[:20]
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    return Artifact(place, made.stage, made.key)


def _triplets(every: Sequence[str], images: int) -> Iterator[pa.Table]:
    random = np.random.default_rng(1)
    for ids in _groups(every):
        count = len(ids)
        provenance = {"model": "m", "revision": "r" * 40, "prompt_digest": "p" * 64, "caption_prompt_digest": "c" * 64}
        columns: dict[str, Any] = {
            **dict.fromkeys(TRIPLETS.names, [None] * count),
            "triplet_id": ids,
            "pair_id": ids,
            "view": ["tokens"] * count,
            "reference_id": [_name(place) for place in random.integers(images, size=count)],
            "target_id": [_name(place) for place in random.integers(images, size=count)],
            "modification": _phrases(random, count, 8),
            "reference_caption": _phrases(random, count, 10),
            "target_caption": _phrases(random, count, 10),
            "edit_type": random.choice(["colour", "size", "add", "remove"], count).tolist(),
            "style": random.choice(["short", "sentence"], count).tolist(),
            "rank": random.integers(51, 61, count).astype(np.int32),
            "score": random.random(count, dtype=np.float32),
            "recipe": ["mra_cir"] * count,
            "provenance": [{**provenance, "request_ids": [f"{one}1", f"{one}2"]} for one in ids],
        }
        yield pa.table(columns, schema=TRIPLETS)


def _verdicts(every: Sequence[str]) -> Iterator[pa.Table]:
    random = np.random.default_rng(2)
    for name in FILTERS:
        for ids in _groups(every):
            count = len(ids)
            columns = {
                "triplet_id": ids,
                "filter": [name] * count,
                "value": random.random(count),
                "threshold": [1.0] * count,
                "kept": [True] * count,
                "reason": [None] * count,
            }
            yield pa.table(columns, schema=VERDICTS)


def _groups(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + GROUP] for start in range(0, len(ids), GROUP))


def _phrases(random: np.random.Generator, count: int, length: int) -> list[str]:
    words = np.array(" ".join(WORDS).split())
    chosen: npt.NDArray[np.str_] = words[random.integers(len(words), size=(count, length))]
    return [" ".join(some) for some in chosen]


def _name(place: int) -> str:
    return f"train/n{place % 1000:08d}/{place:08d}.JPEG"
