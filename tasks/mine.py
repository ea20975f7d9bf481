"""Mine: give each triplet images and texts that are near its target and wrong, to be told apart from it in training."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt

from data.artifact import Artifact, Counts, write_atomically
from data.config import StageConfig
from data.progress import progress
from data.schemas import TRIPLETS
from data.tokens import read_tokens
from tasks.candidates import by_reference
from tasks.stage import stage

if TYPE_CHECKING:
    pass

_ROWS = 4096  # triplets read and written at a time


class MineConfig(StageConfig):
    """How many hard negatives, and what is too near the target to be one."""

    count: NonNegativeInt = Field(0, description="hard negatives per triplet; 0: none. train.hard_negatives uses them")
    # U-MARVEL: hard negatives help once false ones are left out, and hurt before.
    margin: float = Field(
        0.05, ge=0, le=2, description="what scores within this of the target itself may be a right answer: left out"
    )


@stage(version=1)
def mine(out: Path, config: MineConfig, triplets: Artifact, ranking: Artifact, tokens: Artifact) -> Counts:
    """Write triplets.parquet: the rows that came in, with `negative_ids` and `negative_texts` where `count` is not 0.

    Of a target image the negatives are the reference, then the images that rank nearest to the target. An image
    within `margin` of the target's score with itself (1, so by default whatever scores above 0.95 with it) is left
    out: it may be as right an answer. Of a target text the negative is the reference's caption (as in InstructCIR).

    Raises:
        ValueError: if a triplet names an image that has no tokens.
    """
    path = triplets.file("triplets.parquet")
    with pq.ParquetFile(path) as file:
        if not file.schema_arrow.equals(TRIPLETS, check_metadata=False):
            raise ValueError(f"{path} has another schema than triplets have now; run {triplets.stage} again")
        total = file.metadata.num_rows
    near = _near(config, path, ranking) if config.count else {}
    miner = _Miner(config, near, tokens) if config.count else None

    def fill(temporary: Path) -> None:
        with (
            pq.ParquetWriter(temporary, TRIPLETS, compression="zstd") as writer,
            progress(total, "triplets") as advance,
        ):
            for rows in _batches(path):
                some = rows if miner is None else [miner.with_negatives(row) for row in rows]
                writer.write_table(pa.Table.from_pylist(some, schema=TRIPLETS))
                advance(len(some))

    write_atomically(out / "triplets.parquet", fill)
    detail: dict[str, Any] = {} if miner is None else miner.figures
    return Counts(read=total, kept=total, written=total, detail=detail)


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS):
            yield batch.to_pylist()


def _near(config: MineConfig, path: Path, ranking: Artifact) -> dict[str, list[str]]:
    """Of each target that was ranked as a reference itself the images nearest to it, false negatives left out."""
    targets = pc.unique(pq.read_table(path, columns=["target_id"])["target_id"].combine_chunks().drop_null())
    wanted = set(targets.to_pylist())
    found = {}
    for candidates in by_reference(ranking):
        if candidates.reference_id in wanted:
            places = np.flatnonzero(candidates.scores < 1 - config.margin)[: config.count]
            found[candidates.reference_id] = candidates.ids.take(pa.array(places)).to_pylist()
    return found


class _Miner:
    """Negatives of one triplet after the other.

    Attributes:
        figures: how many triplets got any, how many references were too near their target, how many targets the
            ranking has no list of.
    """

    def __init__(self, config: MineConfig, near: Mapping[str, list[str]], tokens: Artifact) -> None:
        from models.ranking import TokenSets

        ids, array = read_tokens(tokens.file("tokens.arrow"))
        self._config, self._near = config, near
        self._sets: TokenSets = TokenSets(ids, array)
        self._place = {image: place for place, image in enumerate(ids)}
        self.figures = {"with_negatives": 0, "negatives": 0, "reference_too_near": 0, "unranked_targets": 0}

    def with_negatives(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its negatives; null where it has none."""
        images = [] if row["target_id"] is None else self._images(row["reference_id"], row["target_id"])
        caption = row["reference_caption"]
        texts = [caption] if row["target_text"] is not None and caption not in (None, row["target_text"]) else []
        self.figures["with_negatives"] += bool(images or texts)
        self.figures["negatives"] += len(images) + len(texts)
        return {**row, "negative_ids": images or None, "negative_texts": texts or None}

    def _images(self, reference: str, target: str) -> list[str]:
        too_near = self._score(target, reference) >= 1 - self._config.margin
        self.figures["reference_too_near"] += too_near
        self.figures["unranked_targets"] += target not in self._near
        others = [image for image in self._near.get(target, []) if image != reference]
        return [*([] if too_near else [reference]), *others][: self._config.count]

    def _score(self, target: str, reference: str) -> float:
        import torch

        from models.similarity import exact_scores

        for image in (target, reference):
            if image not in self._place:
                raise ValueError(f"image {image!r} of a triplet has no tokens; triplets and tokens are of other images")
        places = (np.array([self._place[image]]) for image in (target, reference))
        (query, _), (candidate, _) = (self._sets.rows(place) for place in places)
        with torch.inference_mode():
            return float(exact_scores(query[0], candidate, "reference")[0])
