"""What the report says of the filters: what each read and kept, and some of what it dropped, with the pictures."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from data.artifact import Artifact
from data.schemas import REJECTED
from tasks.filter import read_yields
from tasks.report_cards import Card, shortened, thumbnails


@dataclass(frozen=True)
class DroppedCard(Card):
    """A dropped triplet as it is shown; `why` is its value, the threshold and what was found."""

    why: str = ""


@dataclass(frozen=True)
class FilterRow:
    """A line of the table of filters, and examples of what the filter dropped.

    Attributes:
        name: of the filter.
        bound: which values it keeps, in words.
        read, kept, dropped: triplets.
        unjudged: kept ones without a value, by reason.
        cards: dropped ones.
    """

    name: str
    bound: str
    read: int
    kept: int
    dropped: int
    unjudged: Mapping[str, int]
    cards: list[DroppedCard]

    @property
    def share(self) -> str:
        """Kept of what was read, in percent."""
        return f"{100 * self.kept / self.read:.1f} %" if self.read else "–"


def filtered(kept: Artifact, images: Artifact, examples: int, side: int) -> list[FilterRow]:
    """The filters of an artifact of `filter` in their order, each with the first rows that it dropped.

    Args:
        kept: the artifact of `filter`.
        images: the artifact of `ingest`.
        examples: dropped triplets shown per filter.
        side: longest side of a thumbnail, in pixels.
    """
    yields = read_yields(kept)
    reasons = kept.read(REJECTED, "rejected.parquet")
    firsts = [reasons.filter(pc.equal(reasons["reason"], one["filter"])).slice(0, examples) for one in yields]
    chosen = {row["row_id"]: row for table in firsts for row in table.to_pylist()}
    dropped = ds.dataset(kept.file("dropped.parquet"))
    rows = dropped.to_table(filter=pc.field("triplet_id").isin(pa.array(list(chosen), pa.string()))).to_pylist()
    wanted = {row[name] for row in rows for name in ("reference_id", "target_id") if row[name] is not None}
    pictures = thumbnails(images, wanted, side)
    cards: dict[str, list[DroppedCard]] = defaultdict(list)
    for row in rows:
        reason = chosen[row["triplet_id"]]
        target = None if row["target_id"] is None else pictures[row["target_id"]]
        card = DroppedCard(row, pictures[row["reference_id"]], target, shortened(reason["detail"]))
        cards[reason["reason"]].append(card)
    return [_row(one, cards[one["filter"]]) for one in yields]


def _row(one: Mapping[str, Any], cards: list[DroppedCard]) -> FilterRow:
    bound = f"{str(one['keeps']).replace('_', ' ')} {one['threshold']:g}"
    return FilterRow(one["filter"], bound, one["read"], one["kept"], one["dropped"], one["unjudged"], cards)
