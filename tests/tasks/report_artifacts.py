"""Artifacts of a whole run, made up: what the report reads, without running the stages."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from data.artifact import Artifact, Counts, seal, write_table
from data.schemas import IMAGES, PAIRS, RANKING, REJECTED, SCORES, TRIPLETS
from tasks.train import HISTORY

SCRIPT = "<script>alert('x')</script>"


def put(
    folder: Path, stage: str, counts: Counts, tables: Mapping[str, tuple[pa.Schema, Sequence[Mapping[str, Any]]]]
) -> Artifact:
    """Write tables and seal."""
    for name, (schema, rows) in tables.items():
        table = pa.Table.from_pylist([dict.fromkeys(schema.names) | dict(row) for row in rows], schema=schema)
        write_table(folder / stage / name, table, schema)
    folder.joinpath(stage).mkdir(parents=True, exist_ok=True)
    return seal(folder / stage, counts, stage=stage, config={"checkpoint": "tiny_blip2"}, seconds=12.3)


def whole_run(folder: Path, pictures: Mapping[str, Image.Image], triplets: int = 3) -> dict[str, Artifact]:
    """The arguments of `report` for a run over some pictures; the first triplet's texts are markup."""
    files = folder / "files"
    files.mkdir(parents=True)
    rows = []
    for name, picture in pictures.items():
        picture.save(files / f"{name}.png")
        size = {"width": picture.width, "height": picture.height}
        rows.append({"image_id": name, "uri": str(files / f"{name}.png"), "sha256": name, **size})
    rows.sort(key=lambda row: str(row["image_id"]))
    ids = [str(row["image_id"]) for row in rows]
    faulty = [
        {"row_id": f"broken/{k}.jpg", "stage": "ingest", "reason": "truncated", "detail": f"cut after {k} bytes"}
        for k in range(7)
    ]
    many = Counts(read=len(rows) + 7, kept=len(rows), dropped={"truncated": 7}, written=len(rows))
    plain = Counts(read=len(rows), kept=len(rows), written=len(rows), detail={"encoded": 3, "reused": 0})
    pairs = Counts(read=len(rows), kept=triplets, dropped={"ranking_too_short": len(rows) - triplets}, written=triplets)
    text = Counts(read=triplets + 1, kept=triplets, dropped={"not_json": 1}, written=triplets)
    done = Counts(read=triplets, kept=triplets, written=2, detail={"dtype": "float32", "window": [51, 60]})
    nonsense = {"row_id": "r", "stage": "generate", "reason": "not_json", "detail": f"I think {SCRIPT} " + "so " * 400}
    return {
        "images": put(
            folder, "ingest", many, {"images.parquet": (IMAGES, rows), "rejected.parquet": (REJECTED, faulty)}
        ),
        "tokens": put(folder, "encode", plain, {}),
        "ranking": put(folder, "rank", plain, {"ranking.parquet": (RANKING, list(ranking_rows(ids)))}),
        "pairs": put(folder, "sample", pairs, {"pairs.parquet": (PAIRS, list(pair_rows(ids, triplets)))}),
        "triplets": put(
            folder,
            "generate",
            text,
            {
                "triplets.parquet": (TRIPLETS, list(triplet_rows(ids, triplets))),
                "rejected.parquet": (REJECTED, [nonsense]),
            },
        ),
        "trained": put(folder, "train", done, {"history.parquet": (HISTORY, list(history_rows()))}),
        "scores": put(folder, "evaluate", done, {"scores.parquet": (SCORES, list(score_rows()))}),
    }


def similarity(rank: int) -> float:
    return 0.95 - 0.08 * math.log(rank)


def ranking_rows(ids: Sequence[str]) -> Any:
    for place, reference in enumerate(ids[:40]):
        for rank in range(1, 101):
            score = similarity(rank) + 0.02 * math.sin(place)
            yield {"reference_id": reference, "rank": rank, "candidate_id": ids[0], "score": score}


def pair_rows(ids: Sequence[str], count: int) -> Any:
    for place in range(count):
        rank = 51 + place % 10
        score = similarity(rank) + 0.02 * math.sin(place)
        reference, target = ids[place % len(ids)], ids[(place + 1) % len(ids)]
        both = {"reference_id": reference, "target_id": target}
        yield {"pair_id": f"p-{place:04d}", **both, "rank": rank, "score": score, "view": "tokens"}


def triplet_rows(ids: Sequence[str], count: int) -> Any:
    for place, pair in enumerate(pair_rows(ids, count)):
        yield {
            **pair,
            "triplet_id": f"t-{place:04d}",
            "modification": f"{SCRIPT} & more" if place == 0 else "make the circle blue and move it to the left",
            "reference_caption": "a large red circle on a striped background, above a small green star",
            "target_caption": "a blue circle" if place else SCRIPT,
            "recipe": "mra_cir",
            "provenance": {
                "model": "tiny_llava",
                "revision": "r",
                "prompt_digest": "p",
                "caption_prompt_digest": "c",
                "request_ids": [],
            },
        }


def history_rows() -> Any:
    for seed in (0, 1):
        for step in range(241):
            row = {"seed": seed, "step": step, "epoch": step // 20, "temperature": 0.07}
            if step:
                row |= {"loss": 4 * math.exp(-step / 80) + 0.2 * math.sin(step + seed) + 0.6, "lr": 1e-4}
            if step % 20 == 0:
                recall = 60 * (1 - math.exp(-step / 90)) + seed
                row |= {"val_recall@1": recall / 2, "val_recall@10": recall}
            yield row


def score_rows() -> Any:
    worth = {"image_only": 14.2, "text_only": 3.1, "image_text": 17.0, "composed": 41.6}
    for benchmark, protocol in (("tiny_single", '{"reference":"mask"}'), ("tiny_multi", '{"reference":"keep"}')):
        head = "recall" if benchmark == "tiny_single" else "map"
        for method, value in worth.items():
            for metric, factor in (
                (f"{head}@1", 1.0),
                (f"{head}@5", 1.6),
                (f"{head}@10", 1.9),
                (f"{head}@1/colour", 1),
            ):
                yield {
                    "method": method,
                    "benchmark": benchmark,
                    "split": "val",
                    "protocol": protocol,
                    "metric": metric,
                    "value": value * factor,
                    "low": value * factor - 2.5,
                    "high": value * factor + 2.7,
                    "queries": 500,
                    "seeds": 3 if method == "composed" else 1,
                }
