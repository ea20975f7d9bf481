"""Hard negatives: the reference and the target's look-alikes, without what may be a right answer."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.artifact import Artifact, Counts, read_table, seal, write_table
from data.schemas import RANKING, TRIPLETS
from tasks.mine import MineConfig, mine
from tests.tasks.filters.triplets import tokens_of, triplet, triplets_of

# Cosines with the target i001 = (0, 1): i000 0.6, i002 0.999, i003 0.8, i004 0.
VECTORS = {"i000": (0.8, 0.6), "i001": (0, 1), "i002": (0.04, 0.999), "i003": (0.6, 0.8), "i004": (1, 0)}
NEAREST = [("i002", 0.999), ("i003", 0.8), ("i000", 0.6), ("i004", 0.0)]


def ranking_of(folder: Path) -> Artifact:
    """What ranks for i001; no other image was a reference."""
    rows = [
        {"reference_id": "i001", "rank": rank, "candidate_id": image, "score": score}
        for rank, (image, score) in enumerate(NEAREST, start=1)
    ]
    write_table(folder / "ranking.parquet", pa.Table.from_pylist(rows, schema=RANKING), RANKING)
    return seal(folder, Counts(read=5, kept=1, dropped={"no_candidate": 4}, written=4), stage="rank")


def mined(folder: Path, rows: list[dict[str, Any]], **config: Any) -> tuple[list[dict[str, Any]], Counts]:
    triplets, tokens = triplets_of(folder / "triplets", rows), tokens_of(folder / "tokens", VECTORS)
    out = folder / "out"
    counts = mine.fn(out, MineConfig(**config), triplets, ranking_of(folder / "ranking"), tokens)
    return read_table(out / "triplets.parquet", TRIPLETS).to_pylist(), counts


def test_the_reference_comes_first_and_near_duplicates_of_the_target_never(tmp_path: Path) -> None:
    rows, counts = mined(tmp_path, [triplet("make it red")], count=3)
    assert rows[0]["negative_ids"] == ["i000", "i003", "i004"]
    assert rows[0]["negative_texts"] is None
    assert counts.detail == {"with_negatives": 1, "negatives": 3, "reference_too_near": 0, "unranked_targets": 0}


@pytest.mark.parametrize(
    ("margin", "negatives"),
    [(0.0, ["i000", "i002"]), (0.3, ["i000", "i004"]), (0.5, ["i004"])],
)
def test_the_margin_decides_what_may_be_right(tmp_path: Path, margin: float, negatives: list[str]) -> None:
    rows, counts = mined(tmp_path, [triplet("make it red")], count=2, margin=margin)
    assert rows[0]["negative_ids"] == negatives
    assert counts.detail["reference_too_near"] == (margin == 0.5)


def test_a_target_without_a_list_has_the_reference(tmp_path: Path) -> None:
    rows, counts = mined(tmp_path, [triplet("make it red", target_id="i004")], count=3)
    assert rows[0]["negative_ids"] == ["i000"]
    assert counts.detail["unranked_targets"] == 1


def test_a_target_text_has_the_reference_caption(tmp_path: Path) -> None:
    text = triplet("make it red", target_id=None, target_text="a red circle", reference_caption="a blue circle")
    rows, _ = mined(tmp_path, [text, text | {"target_text": "a blue circle"}], count=1)
    assert [row["negative_texts"] for row in rows] == [["a blue circle"], None]
    assert [row["negative_ids"] for row in rows] == [None, None]


def test_by_default_nothing_changes(tmp_path: Path) -> None:
    given = [triplet("make it red"), triplet("make it blue")]
    rows, counts = mined(tmp_path, given)
    assert rows == [row | {"triplet_id": f"t-{place:04d}"} for place, row in enumerate(given)]
    assert (counts.read, counts.kept, counts.detail) == (2, 2, {})


def test_an_image_without_tokens_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image 'i999' of a triplet has no tokens"):
        mined(tmp_path, [triplet("make it red", reference_id="i999")], count=1)
