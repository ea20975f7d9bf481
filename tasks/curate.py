"""Curate: keep the triplets that people approved, or did not reject, in the words that they gave them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from data.artifact import Artifact, Counts
from data.config import StageConfig
from data.progress import progress
from data.schemas import REJECTED, TRIPLETS
from tasks.curation import Curation, Opinion, curation_folder, judged_digest, opinions_digest
from tasks.rows import read_rows, row_writer
from tasks.stage import NO_FACTS, stage

SAID = pa.schema(
    [
        pa.field("triplet_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string()),
        pa.field("tags", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("authors", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("time", pa.string(), nullable=False),  # UTC, of the last word
        pa.field("original", pa.string()),  # the modification before it was edited; null if it was not
        pa.field("original_target_text", pa.string()),  # likewise
    ]
)


class CurateConfig(StageConfig):
    """Whose triplets go on. What people said enters the key, and so does what they say later: then it is made anew."""

    verdict: Literal["any", "approved", "not_rejected"] = Field(
        "any", description="approved: only those; not_rejected: also those nobody judged; any: people are not asked"
    )


def curate_facts(config: CurateConfig, triplets: Artifact) -> dict[str, Any]:
    """What was said, where it matters."""
    return {} if config.verdict == "any" else {"said": _said(triplets)[1]}


@stage(version=2, facts=curate_facts)
def curate(out: Path, config: CurateConfig, triplets: Artifact, *, facts: Mapping[str, Any] = NO_FACTS) -> Counts:
    """Write triplets.parquet with the kept rows, edited where somebody edited them, in the order they came in.

    said.parquet tells of each kept triplet that somebody judged, edited or tagged who did, and what its words were
    before; rejected.parquet of each other triplet why it went.

    Raises:
        ValueError: if somebody said something between the making of the key and the reading, or nothing is left.
    """
    opinions: dict[tuple[str, str], Opinion] = {}
    if config.verdict != "any":
        opinions, digest = _said(triplets)
        if digest != facts["said"]:
            raise ValueError("somebody judged triplets at this very moment; run again")
    known = {triplet_id for triplet_id, _ in opinions}
    dropped: Counter[str] = Counter()
    edited: Counter[str] = Counter()
    with ExitStack() as stack:
        kept = stack.enter_context(row_writer(out / "triplets.parquet", TRIPLETS))
        said = stack.enter_context(row_writer(out / "said.parquet", SAID))
        rejected = stack.enter_context(row_writer(out / "rejected.parquet", REJECTED))
        for row in _rows(triplets):
            opinion = opinions.get((row["triplet_id"], judged_digest(row))) if row["triplet_id"] in known else None
            reason = _why_not(config.verdict, opinion)
            if reason is not None:
                dropped[reason] += 1
                told = _told(opinion)
                rejected.add({"row_id": row["triplet_id"], "stage": "curate", "reason": reason, "detail": told})
                continue
            if opinion is not None:
                said.add(_line(row, opinion))
                edited.update(opinion.edits.keys())
                row = {**row, **opinion.edits}
            kept.add(row)
    count = kept.rows
    if not count and config.verdict == "approved":
        raise ValueError(
            f"none of {sum(dropped.values()):,} triplets is approved; approve some with: python -m flows view"
        )
    counted = {"edited": edited["modification"], "edited_target_texts": edited["target_text"], "judged": len(opinions)}
    detail = {} if config.verdict == "any" else counted
    return Counts(read=count + dropped.total(), kept=count, dropped=dict(dropped), written=count, detail=detail)


def _said(triplets: Artifact) -> tuple[dict[tuple[str, str], Opinion], str]:
    opinions = Curation(curation_folder(triplets)).opinions()
    return opinions, opinions_digest(opinions.items())


def _rows(triplets: Artifact) -> Iterator[dict[str, Any]]:
    path = triplets.file("triplets.parquet")
    with progress(None, "triplets") as advance:
        for batch in read_rows(path, TRIPLETS):
            yield from batch.to_pylist()
            advance(len(batch))


def _why_not(wanted: str, opinion: Opinion | None) -> str | None:
    verdict = None if opinion is None else opinion.verdict
    if wanted == "any" or verdict == "approved":
        return None
    if verdict == "rejected":
        return "rejected"
    return "not_judged" if wanted == "approved" else None


def _told(opinion: Opinion | None) -> str:
    if opinion is None or not opinion.history:
        return ""
    last = opinion.history[-1]
    return f"by {last.author}, {last.time}" + (f"; tags: {', '.join(sorted(opinion.tags))}" if opinion.tags else "")


def _line(row: Mapping[str, Any], opinion: Opinion) -> dict[str, Any]:
    return {
        "triplet_id": row["triplet_id"],
        "verdict": opinion.verdict,
        "tags": sorted(opinion.tags),
        "authors": sorted({said.author for said in opinion.history}),
        "time": opinion.history[-1].time,
        "original": row["modification"] if "modification" in opinion.edits else None,
        "original_target_text": row["target_text"] if "target_text" in opinion.edits else None,
    }
