"""Sets of triplets made of others."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.artifact import Artifact, read_table, write_table
from data.schemas import PAIRS, REJECTED, TRIPLETS
from data.tiny_edits import difference
from data.tiny_language import modification
from data.tiny_random_edits import pool_scene
from tasks.triplet_sets import AgainConfig, MergeConfig, SpoilConfig, again, merge, spoil
from tasks.truth import TruthConfig, truth
from tests.tasks.small_artifacts import sealed, triplets_artifact


def texts(artifact_or_folder: Any) -> dict[str, str]:
    path = artifact_or_folder.path if isinstance(artifact_or_folder, Artifact) else artifact_or_folder
    rows = read_table(path / "triplets.parquet", TRIPLETS).to_pylist()
    return {row["triplet_id"]: row["modification"] for row in rows}


@pytest.fixture
def triplets(tmp_path: Path) -> Artifact:
    return triplets_artifact(tmp_path / "a", [("i0", f"text {place % 15}", "i1") for place in range(20)])


def test_spoiled_triplets_have_the_words_of_others(tmp_path: Path, triplets: Artifact) -> None:
    counts = spoil.fn(tmp_path, SpoilConfig(share=0.3), triplets)
    before, after = texts(triplets), texts(tmp_path)
    assert before.keys() == after.keys()
    changed = [name for name in before if before[name] != after[name]]
    assert len(changed) == counts.detail["spoiled"] == 6  # 0.3 of 20
    assert {after[name] for name in changed} <= {before[name] for name in changed}
    spoil.fn(tmp_path, SpoilConfig(share=0.1), triplets)
    fewer = texts(tmp_path)
    assert {name for name in before if before[name] != fewer[name]} <= set(changed)  # a larger share adds to a smaller
    alike = triplets_artifact(tmp_path / "b", [("i0", "same", "i1")] * 4)
    assert spoil.fn(tmp_path, SpoilConfig(share=1), alike).detail["spoiled"] == 0


def test_sources_are_merged_and_told_apart(tmp_path: Path, triplets: Artifact) -> None:
    rows = triplets.read(TRIPLETS, "triplets.parquet").to_pylist()
    others = [{**row, "triplet_id": f"s-{place}"} for place, row in enumerate(rows)]
    write_table(tmp_path / "b" / "triplets.parquet", pa.Table.from_pylist(others, schema=TRIPLETS), TRIPLETS)
    second = sealed(tmp_path / "b", "generate")
    counts = merge.fn(tmp_path, MergeConfig(), {"first": triplets, "second": second})
    found = list(texts(tmp_path))
    assert found == sorted(found)
    assert len(found) == counts.kept == 40
    assert counts.detail == {"first": 20, "second": 20}
    with pytest.raises(ValueError, match="20 triplets are in two of the sources first, again, such as 't-0000'"):
        merge.fn(tmp_path, MergeConfig(), {"first": triplets, "again": triplets})


def test_what_a_filter_dropped_is_asked_for_again(tmp_path: Path, triplets: Artifact) -> None:
    rows = triplets.read(TRIPLETS, "triplets.parquet").to_pylist()[:4]
    for place, row in enumerate(rows[:3]):
        row |= {"pair_id": f"p{place // 2}", "view": "tokens", "rank": 51, "score": 0.5}
    out = tmp_path / "filtered"
    write_table(out / "dropped.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    reasons = [
        {"row_id": f"t-000{place}", "stage": "filter", "reason": reason, "detail": ""}
        for place, reason in enumerate(["judge", "judge", "too_long", "judge"])
    ]
    write_table(out / "rejected.parquet", pa.Table.from_pylist(reasons, schema=REJECTED), REJECTED)
    counts = again.fn(tmp_path, AgainConfig(), sealed(out, "filter"))
    # Two of the three that the judge dropped are of one pair, the third of none.
    assert (counts.read, counts.kept, counts.dropped) == (3, 1, {"no_pair_of_its_own": 2})
    found = read_table(tmp_path / "pairs.parquet", PAIRS).to_pylist()
    assert [(row["pair_id"], row["reference_id"], row["rank"]) for row in found] == [("p0", "i0", 51)]


def test_the_truth_of_the_tiny_world(tmp_path: Path) -> None:
    import random

    ids = [f"{place:07d}" for place in range(8)]
    rows: list[tuple[str, str, str | None]] = []
    for one, other in zip(ids[::2], ids[1::2], strict=True):
        scene, target = pool_scene(int(one), 5), pool_scene(int(other), 5)
        rows.append((one, modification(difference(scene, target), scene, random.Random(0), "sentence"), other))
    made = triplets_artifact(tmp_path / "a", [*rows, (ids[0], "what a day", ids[1])])
    counts = truth.fn(tmp_path, TruthConfig(seed=5), made)
    assert counts.detail["right"] == 80  # four of five
    assert counts.kept == 5
    other_world = truth.fn(tmp_path, TruthConfig(seed=6), made)
    assert float(str(other_world.detail["right"])) < 80
