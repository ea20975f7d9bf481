"""Small inputs of the generate stage and its run with the scripted backend."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

import models.backends
from data.artifact import Artifact, Counts, seal, write_table
from data.config import Resources
from data.schemas import IMAGES, PAIRS
from tasks.generate import generate
from tasks.plans.mra_cir import MraCirGenerate
from tasks.sample import pair_id
from tasks.stage import Outcome

CHUNK = 8


def use_scripted_backend() -> None:
    """Let `load_backend` find tests/tasks/backends/scripted.py."""
    folder = str(Path(__file__).parent / "backends")
    if folder not in models.backends.__path__:
        models.backends.__path__.append(folder)


def small_images(folder: Path, count: int) -> Artifact:
    """`count` different PNG pictures of 24 x 16 pixels, ids i000, i001, ..."""
    rows = []
    (folder / "images").mkdir(parents=True)
    for place in range(count):
        pixels = np.random.default_rng(place).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        name = f"images/{place:03}.png"
        Image.fromarray(pixels).save(folder / name)
        sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        rows.append({"image_id": f"i{place:03}", "uri": name, "width": 24, "height": 16, "sha256": sha256})
    write_table(folder / "images.parquet", pa.Table.from_pylist(rows, schema=IMAGES), IMAGES)
    return seal(folder, Counts(read=count, kept=count, written=count), stage="ingest", config={"images": count})


def small_pairs(folder: Path, images: int, step: int) -> Artifact:
    """Each image with the one `step` places further."""
    ids = [f"i{place:03}" for place in range(images)]
    rows = [
        {"pair_id": pair_id(a, b, "tokens"), "reference_id": a, "target_id": b, "rank": step, "score": 0.5, "view": "x"}
        for a, b in zip(ids, ids[step:] + ids[:step], strict=True)
    ]
    rows.sort(key=lambda row: str(row["pair_id"]))
    folder.mkdir(parents=True)
    write_table(folder / "pairs.parquet", pa.Table.from_pylist(rows, schema=PAIRS), PAIRS)
    counts = Counts(read=images, kept=images, written=images)
    return seal(folder, counts, stage="sample", config={"images": images, "step": step})


def resealed(artifact: Artifact) -> Artifact:
    """The artifact after its files were changed by a test."""
    manifest = artifact.manifest
    return seal(artifact.path, artifact.counts, stage=artifact.stage, config=manifest["config"])


def small_model(folder: Path) -> Path:
    """What passes for a model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def config_of(model: Path, **fields: object) -> MraCirGenerate:
    use_scripted_backend()
    return MraCirGenerate.model_validate({"backend": "scripted", "model": str(model), **fields})


def run(place: Path, images: int = 40, step: int = 3, **fields: object) -> Outcome:
    """Generate for inputs below `place`, which are made if they are not there. CIRQUE_HOME is the caller's."""
    pictures, pairs = place / f"images-{images}", place / f"pairs-{images}-{step}"
    first = Artifact(pictures, "ingest", _key(pictures)) if pictures.exists() else small_images(pictures, images)
    second = Artifact(pairs, "sample", _key(pairs)) if pairs.exists() else small_pairs(pairs, images, step)
    config = config_of(small_model(place / "model"), **fields)
    return generate.make(config, second, first, resources=Resources(chunk=CHUNK))


def _key(folder: Path) -> str:
    return str(Artifact(folder, "", "").manifest["key"])
