"""A small line of artifacts in the store, as a run leaves it: images, ranking, generated and filtered triplets."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from data.artifact import Artifact, Counts, seal, write_json, write_table
from data.schemas import GENERATIONS, RANKING, REJECTED, TRIPLETS, VERDICTS
from tasks.ingest import IngestConfig, ingest
from tasks.store import home

SCRIPT = "<script>document.title = 'taken over'</script><b>bold</b>"
COLOURS = ("red", "green", "blue", "yellow", "black", "white")
Tables = Mapping[str, tuple[pa.Schema, Sequence[Mapping[str, Any]]]]


def put(
    stage: str,
    counts: Counts,
    tables: Tables,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    **inputs: Artifact,
) -> Artifact:
    """Seal tables as an artifact of a stage, at its place in the store."""
    folder = home() / "made" / stage
    for name, (schema, rows) in tables.items():
        full = [dict.fromkeys(schema.names) | dict(row) for row in rows]
        write_table(folder / name, pa.Table.from_pylist(full, schema=schema), schema)
    if stage == "filter":
        yields = {"filter": "too_long", "threshold": 5.0, "keeps": "at_most", "read": 0, "kept": 0, "dropped": 0}
        write_json(folder / "yields.json", [{**yields, "unjudged": {}}])
    made = seal(folder, counts, stage=stage, inputs=inputs, config=config or {"checkpoint": "tiny_blip2"}, facts=facts)
    place = home() / "store" / stage / made.key[:20]
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    return Artifact(place, stage, made.key)


def photos(folder: Path, count: int) -> Path:
    """Pictures of one colour each, 0000.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(count):
        size = (40 + place, 30)
        Image.new("RGB", size, COLOURS[place % len(COLOURS)]).save(folder / f"{place:04d}.png")
    return folder


def triplet(place: int, images: int, **more: Any) -> dict[str, Any]:
    """One triplet: reference `place`, target the next image."""
    colour = COLOURS[place % len(COLOURS)]
    return {
        "triplet_id": f"t{place:04d}",
        "pair_id": f"p{place:04d}",
        "view": "tokens",
        "reference_id": f"{place % images:04d}.png",
        "target_id": f"{(place + 1) % images:04d}.png",
        "modification": f"make it {colour} and turn it {place} times",
        "reference_caption": f"a {colour} square",
        "target_caption": "another square",
        "style": "short" if place % 2 else "sentence",
        "rank": 51 + place % 10,
        "score": 1 - place / 100,
        "recipe": "mra_cir",
        "provenance": {
            "model": "tiny_llava", "revision": "r", "prompt_digest": "p", "caption_prompt_digest": "c",
            "request_ids": [f"q{place:04d}"],
        },
        **more,
    }  # fmt: skip


def small_world(
    folder: Path, triplets: int = 30, images: int = 6, gone: int | None = None, texts: Container[int] = ()
) -> Artifact:
    """Triplets that passed the filters, over pictures in `folder`; the first one's text is a script.

    Three more were dropped. The artifact of `filter` stands on `generate`, and that on `rank` and `ingest`. The target
    of the triplet `gone` was deleted after it was ingested. Those in `texts` have a text as their target, no image.
    """
    photos(folder, images)
    Image.new("RGB", (30, 30), "gold").save(folder / "gone.png")
    pictures = ingest.make(IngestConfig(source="folder", path=folder)).artifact
    every = [triplet(place, images) for place in range(triplets + 3)]
    every[0]["modification"] = SCRIPT
    for place, row in enumerate(every):
        if place in texts:
            row.update(target_id=None, target_text=f"a square that was turned {place} times")
    if gone is not None:
        every[gone]["target_id"] = "gone.png"
        (folder / "gone.png").unlink()
    names = [f"{place:04d}.png" for place in range(images)]
    near = [
        {"reference_id": one, "rank": rank, "candidate_id": names[(at + rank) % images], "score": 1 - rank / 100}
        for at, one in enumerate(names)
        for rank in range(1, 61)
    ]
    ranked = Counts(read=images, kept=images, written=len(near))
    ranking = put("rank", ranked, {"ranking.parquet": (RANKING, near)}, images=pictures)
    answers = [
        {
            "request_id": f"q{place:04d}", "prompt": "mra_cir/modification", "prompt_digest": "p",
            "model": "tiny_llava", "revision": "r", "rendered": f"What changes? {SCRIPT}",
            "image_ids": [row["reference_id"]],
            "raw_response": f'{{"modification": "{row["modification"]}"}}', "finish_reason": "stop", "tokens_in": 7,
            "tokens_out": 5, "attempt": 0,
        }
        for place, row in enumerate(every)
    ]  # fmt: skip
    unusable = {"row_id": "p9999", "stage": "generate", "reason": "not_json", "detail": f"I think {SCRIPT}"}
    total = len(every)
    written = put(
        "generate",
        Counts(read=total + 1, kept=total, dropped={"not_json": 1}, written=total),
        {
            "triplets.parquet": (TRIPLETS, every),
            "generations.parquet": (GENERATIONS, answers),
            "rejected.parquet": (REJECTED, [unusable]),
        },
        facts={"prompts": {"caption": "c", "mra_cir/modification": "p"}},
        images=pictures,
        ranking=ranking,
    )
    verdicts = [
        {"triplet_id": row["triplet_id"], "filter": "too_long", "value": float(place), "threshold": triplets - 0.5}
        | {"kept": place < triplets, "reason": None if place < triplets else "too_long"}
        for place, row in enumerate(every)
    ]
    gone = [
        {"row_id": row["triplet_id"], "stage": "filter", "reason": "too_long", "detail": "too many words"}
        for row in every[triplets:]
    ]
    return put(
        "filter",
        Counts(read=total, kept=triplets, dropped={"too_long": 3}, written=triplets),
        {
            "triplets.parquet": (TRIPLETS, every[:triplets]),
            "dropped.parquet": (TRIPLETS, every[triplets:]),
            "verdicts.parquet": (VERDICTS, verdicts),
            "rejected.parquet": (REJECTED, gone),
        },
        triplets=written,
        images=pictures,
    )
