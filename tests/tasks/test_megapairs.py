"""MegaPairs rows that repeat each other, or whose text is no text."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.artifact import Artifact
from data.schemas import REJECTED, TRIPLETS
from tasks.ingest import IngestConfig, ingest
from tasks.megapairs import MegaPairsConfig, megapairs


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))


def line(texts: Any, negatives: tuple[int, ...] = (), target: int = 1) -> dict[str, Any]:
    """A row of 0.png and another image."""
    return {
        **{"q_img": "0.png", "q_text": texts, "t_img": f"{target}.png"},
        "hns": [f"{place}.png" for place in negatives],
    }


def imported(tmp_path: Path, rows: str) -> Artifact:
    """The rows of a file, of the images 0.png to 4.png."""
    (tmp_path / "photos").mkdir()
    for place in range(5):
        Image.new("RGB", (16, 16), (50 * place, 0, 0)).save(tmp_path / "photos" / f"{place}.png")
    images = ingest.make(IngestConfig(source="folder", path=tmp_path / "photos")).artifact
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    return megapairs.make(MegaPairsConfig(path=tmp_path / "rows.jsonl"), images).artifact


def test_the_negatives_of_rows_with_the_same_text_are_joined(tmp_path: Path) -> None:
    rows = [
        line(["redder"], (0, 2)),
        line(["redder"], (3, 0)),  # nothing but a text that is there
        line(["wider", "redder"], (4,)),  # one of two
        line(["redder", "wider"], ()),  # both, of two rows
        line(["redder"], (2,), target=4),  # of another pair
    ]
    made = imported(tmp_path, "\n".join(map(json.dumps, rows)))
    found = {
        (row["target_id"], row["modification"]): row for row in made.read(TRIPLETS, "triplets.parquet").to_pylist()
    }
    assert {what: row["negative_ids"] for what, row in found.items()} == {
        ("1.png", "redder"): ["0.png", "2.png", "3.png", "4.png"],
        ("1.png", "wider"): ["4.png"],
        ("4.png", "redder"): ["2.png"],
    }
    ids = [row["triplet_id"] for row in found.values()]
    assert ids == sorted(set(ids))
    counts = made.counts
    assert (counts.read, counts.kept, counts.dropped, counts.written) == (5, 3, {"repeated": 2}, 3)
    assert counts.detail == {"negatives_missing": 0, "texts_repeated": 1 + 1 + 2}
    rejected = made.read(REJECTED, "rejected.parquet").to_pylist()
    assert sorted((row["row_id"], row["reason"]) for row in rejected) == [
        ("rows.jsonl:2", "repeated"),
        ("rows.jsonl:4", "repeated"),
    ]
    assert next(row["detail"] for row in rejected if row["row_id"] == "rows.jsonl:2") == "as in rows.jsonl:1: redder"
    assert sorted(path.name for path in made.path.iterdir()) == [
        "manifest.json",
        "rejected.parquet",
        "triplets.parquet",
    ]


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    made = imported(tmp_path, "\ufeff" + json.dumps(line(["redder"])) + "\n" + json.dumps(line(["wider"])))
    assert (made.counts.read, made.counts.kept, made.counts.dropped) == (2, 2, {})


def test_half_a_surrogate_pair_is_counted(tmp_path: Path) -> None:
    rows = [
        line(["redder"]),
        line(["good", "bad \ud83d"]),
        line(["redder"]) | {"q_img": "\ud83d.png"},
        line(["wider"]) | {"hns": ["\ud83d.png"]},
        line([" "]) | {"other": "\ud83d"},
        {"q_text": "\ud83d"},
        line(["\ud83d\ude00"]),  # a whole pair is one letter
    ]
    made = imported(tmp_path, "\n".join(map(json.dumps, rows)))
    reasons = ("not_unicode", "query_image_missing", "no_text", "missing_field")
    assert made.counts.dropped == dict.fromkeys(reasons, 1)
    assert (made.counts.read, made.counts.kept, made.counts.written) == (7, 3, 3)
    assert made.counts.detail == {"negatives_missing": 1, "texts_repeated": 0}
    assert "\U0001f600" in made.read(TRIPLETS, "triplets.parquet")["modification"].to_pylist()
    details = dict(
        zip(*made.read(REJECTED, "rejected.parquet").select(["row_id", "detail"]).to_pydict().values(), strict=True)
    )
    assert '"bad \\ud83d"' in details["rows.jsonl:2"]
