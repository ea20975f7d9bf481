"""Image features of a benchmark as an artifact: once per checkpoint and images, mapped, found again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.benchmarks import Benchmark, Query
from data.config import Resources
from data.protocols import Answer, Judge
from tasks.answers import ImageTokens, Weighted, answer
from tasks.gallery import gallery_features
from tasks.pictures import Pictures
from tasks.queries import Composer, text_queries
from tasks.upkeep import loose_faults
from tests.tasks.compass import Compass, World

RESOURCES = Resources(batch_size=2)


def nothing(units: int) -> None:
    """Nobody counts."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    return tmp_path


def features(home: Path, benchmark: Benchmark, weights: str = "weights") -> tuple[Pictures, ImageTokens, str, str]:
    pictures = Pictures(benchmark, home / "towers", RESOURCES)
    images, outcome = gallery_features(Compass(weights), "float32", pictures, RESOURCES, nothing)
    return pictures, images, outcome.state, outcome.artifact.key


def test_a_second_time_the_features_come_from_the_store(home: Path) -> None:
    world = World()
    benchmark = world.benchmark(Query("q", "i9", "at 31", ("i3",)), images=12)
    _, first, state, key = features(home, benchmark)
    assert state == "ran"
    assert sorted(world.loaded) == sorted(benchmark.gallery)
    # Another question about the same images, scored by another protocol.
    again = world.benchmark(
        Query("r", "i2", "at 4", ("i0",)), images=12, protocol={"reference": "mask"}, digest="other"
    )
    world.loaded.clear()
    _, second, state, same = features(home, again)
    assert (state, same, world.loaded) == ("cached", key, [])
    assert isinstance(second.tokens.base, np.ndarray | memoryview) or not second.tokens.flags.owndata  # mapped
    # The file is ordered by id (i0, i1, i10, i11, i2, ...), the rows lead back: image 10 points at 100 degrees.
    assert list(second.rows) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
    assert second.at(np.array([10])).tokens[0, 0].tolist() == pytest.approx([-0.17365, 0.98481], abs=1e-3)
    assert torch.equal(first.at(np.arange(12)).tokens, second.at(np.arange(12)).tokens)


def test_other_weights_and_other_files_make_other_features(home: Path) -> None:
    world = World()
    query = Query("q", "i1", "at 31", ("i3",))
    keys = [
        features(home, world.benchmark(query))[3],
        features(home, world.benchmark(query), "others")[3],
        features(home, world.benchmark(query, images=5))[3],
    ]
    changed = world.benchmark(query)
    object.__setattr__(changed, "images", "replaced")
    assert len({*keys, features(home, changed)[3]}) == 4


@pytest.mark.parametrize("stored", [True, False])
def test_cached_features_need_the_references_alone(home: Path, stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pictures.DISK_SHARE", 0.5 if stored else 0.0)
    world = World()
    benchmark = world.benchmark(Query("q", "i9", "at 31", ("i3",)), Query("r", "i7", "at 4", ("i0",)), images=12)
    pictures, images, _, _ = features(home, benchmark)
    composer = Composer(Compass(), pictures)
    world.loaded.clear()
    for batch in pictures.batches(Compass(), composer.references):
        composer.see(batch)
    # The first batch shows whether it is the same tower.
    assert world.loaded == ["i0", "i1"] + ([] if stored else ["i7", "i9"])
    assert composer.complete
    found = answer(Judge(benchmark), [Weighted(1.0, composer.queries())], images, nothing)
    assert [one.ranked[0] for one in found] == ["i3", "i0"]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_damaged_features_of_a_tower_are_set_aside_and_computed_again(
    home: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    benchmark = world.benchmark(Query("q", "i9", "at 31", ("i3",)), images=12)
    _, first, _, _ = features(home, benchmark)
    (path,) = (home / "towers").iterdir()
    assert list(loose_faults(home)) == []
    whole = path.read_bytes()
    # The last image is not of the first batch, which shows whether it is the same tower.
    path.write_bytes({"flip": whole[:-1] + bytes([whole[-1] ^ 1]), "cut": whole[:-2], "empty": b""}[harm])
    assert [fault[0] for fault in loose_faults(home)] == [path]
    world.loaded.clear()
    _, second, _, _ = features(home, benchmark, "others")
    assert sorted(set(world.loaded)) == sorted(benchmark.gallery)
    assert "and set aside; it is computed again" in caplog.text
    assert sorted(file.name for file in (home / "towers").iterdir()) == [path.name, f"{path.stem}.torn"]
    assert path.read_bytes() == whole
    assert torch.equal(first.at(np.arange(12)).tokens, second.at(np.arange(12)).tokens)


def test_features_of_a_tower_that_an_older_version_stored_are_taken(home: Path) -> None:
    world = World()
    benchmark = world.benchmark(Query("q", "i9", "at 31", ("i3",)), images=12)
    features(home, benchmark)
    next((home / "towers").iterdir()).rename(home / "towers/tower-0.npy")
    world.loaded.clear()
    features(home, benchmark, "others")
    assert world.loaded == ["i0", "i1"]


def ranked(benchmark: Benchmark, home: Path, text: str, weight: float) -> Answer:
    _, images, _, _ = features(home, benchmark)
    encoder = Compass()
    composed = encoder.query_tokens(torch.zeros(1), [query.modification for query in benchmark.queries])
    parts = [Weighted(1 - weight, composed), Weighted(weight, text_queries(encoder, [text], 2))]
    return answer(Judge(benchmark), parts, images, nothing)[0]


def test_joint_scores_are_the_weighted_sum(home: Path) -> None:
    benchmark = World().benchmark(Query("q", "i0", "at 0", ("i3",)), images=7)
    assert ranked(benchmark, home, "at 60", 0.0).ranked[0] == "i0"
    assert ranked(benchmark, home, "at 60", 1.0).ranked[0] == "i6"
    # (cos a + cos(a - 60)) / 2 is greatest in the middle, at 30 degrees, where both cosines are 0.8660.
    even = ranked(benchmark, home, "at 60", 0.5)
    assert even.ranked[0] == "i3"
    assert even.scores[0] == pytest.approx(0.8660, abs=1e-3)
    # 3/4 of (1, 0) and 1/4 of (1/2, 0.866) is (0.875, 0.2165), at 13.9 degrees.
    assert ranked(benchmark, home, "at 60", 0.25).ranked[:2] == ("i1", "i2")


def test_a_query_is_scored_against_its_own_candidates_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ("i4", "i0", "i2"), ("i5", "i1")
    benchmark = World().benchmark(
        Query("q", "i9", "at 29", ("i2",), candidates=first),
        Query("r", "i9", "at 29", ("i1",), candidates=second),
        Query("s", "i9", "at 1", ("i0",), candidates=first),
        images=10,
    )
    _, images, _, _ = features(home, benchmark)
    looked: list[list[int]] = []
    plain = ImageTokens.at

    def at(self: ImageTokens, places: np.ndarray) -> object:
        looked.append(places.tolist())
        return plain(self, places)

    monkeypatch.setattr(ImageTokens, "at", at)
    queries = text_queries(Compass(), [query.modification for query in benchmark.queries], 8)
    found = answer(Judge(benchmark), [Weighted(1.0, queries)], images, nothing)
    # Two queries share their candidates and are scored at once; the other 5 images are never touched.
    assert looked == [[0, 2, 4], [1, 5]]
    assert [one.ranked for one in found] == [("i2", "i4", "i0"), ("i1", "i5"), ("i0", "i2", "i4")]
