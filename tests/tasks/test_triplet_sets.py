"""Sets of triplets made of others."""

import random
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest

from data.artifact import Artifact, read_table, write_table
from data.schemas import PAIRS, REJECTED, TRIPLETS
from data.tiny_edits import difference, holds
from data.tiny_language import modification, read_modification
from data.tiny_random_edits import pool_scene
from data.tiny_world import BACKGROUNDS
from tasks.triplet_sets import (
    AgainConfig,
    MergeConfig,
    PickConfig,
    SpoilConfig,
    again,
    merge,
    pick,
    renew,
    spoil,
)
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


KINDS = {("size",): 3, ("background", "position"): 5, ("background",): 12, ("texture",): 20, ("position",): 40}


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Eighty triplets that name changes of these kinds, all true; then one in other words, one untrue, one without a
    target."""
    pairs = iter([(f"{place:07d}", f"{place + 7:07d}") for place in range(1000)])
    rows: list[tuple[str, str, str | None]] = []
    for wanted, number in KINDS.items():
        while number:
            reference, target = next(pairs)
            scene, other = pool_scene(int(reference)), pool_scene(int(target))
            found = {edit.kind: edit for edit in difference(scene, other) if holds(edit, scene, other)}
            if found.keys() >= set(wanted):
                text = modification([found[kind] for kind in wanted], scene, random.Random(reference))
                rows.append((reference, text, target))
                number -= 1
    one, _, target = rows[0]
    untrue = next(name for name in BACKGROUNDS if name != pool_scene(int(str(target))).background)
    more = [(one, "what a day", target), (one, f"make the background {untrue}", target), (one, rows[0][1], None)]
    return triplets_artifact(tmp_path_factory.mktemp("changes"), [*rows, *more])


def test_kinds_of_change_are_drawn_equally_often_as_far_as_they_go(tmp_path: Path, changes: Artifact) -> None:
    counts = pick.fn(tmp_path, PickConfig(edits="balanced", share=0.5), changes)
    # What names a background and a position counts for the rarer: 17 backgrounds, 45 positions.
    assert counts.detail["known"] == {"background": 17, "position": 40, "size": 3, "texture": 20}
    # All 3 sizes, and the other 37 of a half of 80 in equal parts.
    assert counts.detail["drawn"] == {"background": 12, "position": 13, "size": 3, "texture": 12}
    found = [{edit.kind for edit in read_modification(text) or ()} for text in texts(tmp_path).values()]
    named = Counter(kind for kinds in found for kind in kinds)
    assert counts.detail["named"] == named
    assert named["position"] > 13
    assert (counts.read, counts.kept, counts.written) == (83, 40, 40)
    assert counts.dropped == {
        "not_understood": 1, "no_named_change_is_true": 1, "no_target_image": 1, "not_drawn": 40,
    }  # fmt: skip
    names = list(texts(tmp_path))
    assert names == sorted(set(names))  # none twice


def test_natural_kinds_are_drawn_from_the_same_triplets(tmp_path: Path, changes: Artifact) -> None:
    counts = pick.fn(tmp_path, PickConfig(edits="natural", share=0.5), changes)
    balanced = pick.fn(tmp_path / "balanced", PickConfig(edits="balanced", share=0.5), changes)
    assert (counts.kept, counts.dropped) == (balanced.kept, balanced.dropped)
    assert counts.detail["known"] == balanced.detail["known"]
    drawn = counts.detail["drawn"]
    assert isinstance(drawn, dict)
    assert int(str(drawn["position"])) > 13  # of 80 triplets 40 are about a position


@pytest.mark.parametrize("edits", ["balanced", "natural"])
def test_a_seed_draws_the_same_triplets(
    tmp_path: Path, changes: Artifact, edits: Literal["balanced", "natural"]
) -> None:
    made = []
    for share, seed in ((0.5, 0), (0.5, 0), (0.5, 1), (1.0, 0)):
        pick.fn(tmp_path, PickConfig(edits=edits, share=share, seed=seed), changes)
        made.append(list(texts(tmp_path)))
    assert made[0] == made[1] != made[2]
    assert made[3] == list(texts(changes))[:80]


def test_none_is_drawn_where_no_kind_is_known(tmp_path: Path, triplets: Artifact) -> None:
    counts = pick.fn(tmp_path, PickConfig(edits="balanced", share=0.5), triplets)
    assert (counts.read, counts.kept, counts.dropped) == (20, 0, {"not_understood": 20})
    assert texts(tmp_path) == {}


def filtered(out: Path, kept: list[dict[str, Any]], dropped: list[dict[str, Any]], reasons: list[str]) -> Artifact:
    """What a filter left, and dropped for these reasons."""
    for name, rows in (("triplets", kept), ("dropped", dropped)):
        write_table(out / f"{name}.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    rejected = [
        {"row_id": row["triplet_id"], "stage": "filter", "reason": reason, "detail": ""}
        for row, reason in zip(dropped, reasons, strict=True)
    ]
    write_table(out / "rejected.parquet", pa.Table.from_pylist(rejected, schema=REJECTED), REJECTED)
    return sealed(out, "filter")


def test_what_was_written_anew_takes_the_place_of_what_was_dropped(tmp_path: Path, triplets: Artifact) -> None:
    rows = triplets.read(TRIPLETS, "triplets.parquet").to_pylist()[:5]
    for name, row in zip(("p0", "p0-1", "p1", "p1-1", "p2"), rows, strict=True):
        row |= {"triplet_id": name, "pair_id": name[:2], "view": "tokens", "rank": 51, "score": 0.5}
    judged = filtered(tmp_path / "judged", rows[::2], rows[1::2], ["judge", "judge"])
    assert again.fn(tmp_path / "again", AgainConfig(), judged).written == 2  # the pairs p0 and p1
    fresh = [
        {**row, "modification": text} for row, text in zip(rows[:4], ("new", "newer", "new", "Text 2."), strict=True)
    ]
    write_table(tmp_path / "new" / "triplets.parquet", pa.Table.from_pylist(fresh, schema=TRIPLETS), TRIPLETS)
    rewritten = sealed(tmp_path / "new", "generate")
    counts = renew.fn(tmp_path / "out", AgainConfig(), rewritten, judged)
    # p0 and p1 were kept; what p1-1 says now, but for case and stop, p1 says already.
    assert (counts.read, counts.dropped) == (4, {"not_asked_for": 2, "says_what_was_kept": 1})
    assert texts(tmp_path / "out") == {"p0-1": "newer"}
    merge.fn(tmp_path / "all", MergeConfig(), {"judged": judged, "rewritten": sealed(tmp_path / "out", "renew")})
    assert list(texts(tmp_path / "all")) == ["p0", "p0-1", "p1", "p2"]


def test_what_a_filter_dropped_is_asked_for_again(tmp_path: Path, triplets: Artifact) -> None:
    rows = triplets.read(TRIPLETS, "triplets.parquet").to_pylist()[:4]
    for place, row in enumerate(rows[:3]):
        row |= {"pair_id": f"p{place // 2}", "view": "tokens", "rank": 51, "score": 0.5}
    judged = filtered(tmp_path / "filtered", [], rows, ["judge", "judge", "too_long", "judge"])
    counts = again.fn(tmp_path, AgainConfig(), judged)
    # Two of the three that the judge dropped are of one pair, the third of none.
    assert (counts.read, counts.kept, counts.dropped, counts.written) == (3, 2, {"no_pair": 1}, 1)
    found = read_table(tmp_path / "pairs.parquet", PAIRS).to_pylist()
    assert [(row["pair_id"], row["reference_id"], row["rank"]) for row in found] == [("p0", "i0", 51)]


def test_the_truth_of_the_tiny_world(tmp_path: Path) -> None:
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
