"""The two sources of candidates, each against what it stands for, and re-ranking."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import index
from models.candidates import Finder, Prepared, candidates, prepare, rerank
from models.codebook import encode, interaction, learn
from models.ranking import Integers, TokenSets, top_k
from models.scan import scan
from models.similarity import Direction


def _sets(count: int, tokens: int = 3, dim: int = 8, masked: bool = False) -> TokenSets:
    random = np.random.default_rng(0)
    values = random.normal(size=(count, tokens, dim)).astype(np.float16)
    mask = None
    if masked:
        mask = random.random((count, tokens)) < 0.5
        mask[:, 0] = True
        values[~mask] = np.nan
    return TokenSets([f"{place:04d}" for place in range(count)], values, mask)


def _ignore(units: int) -> None:
    pass


def test_a_scan_sums_the_largest_of_the_named_rows() -> None:
    rows = torch.tensor([[1, 9], [5, 2], [0, 0]], dtype=torch.uint8)
    codes = np.array([[0, 1], [1, 1], [2, 0]], dtype=np.uint16)
    # max(1, 5) + max(9, 2); 5 + 2; max(0, 1) + max(0, 9).
    assert scan(rows, codes).tolist() == [14, 7, 10]


@pytest.mark.parametrize("direction", ["reference", "candidate"])
def test_centroid_interaction_is_the_similarity_with_tokens_replaced(tmp_path: Path, direction: Direction) -> None:
    sets = _sets(120, masked=True)
    centroids = learn(sets, 4, seed=0)
    codes = encode(sets, centroids, tmp_path / "codes", _ignore)
    unit = sets.unit(slice(0, 120))
    found = interaction(unit.tokens[0], None if unit.mask is None else unit.mask[0], centroids, codes, direction)
    assert sets.mask is not None
    replaced = []
    for place in range(120):
        theirs = centroids[torch.from_numpy(codes[place][sets.mask[place]].astype(np.int64))]
        grid = unit.tokens[0][sets.mask[0]] @ theirs.T
        replaced.append(float(grid.amax(1).mean() if direction == "reference" else grid.amax(0).mean()))
    # Eight-bit steps do not turn the order of what differs by more than one of them.
    assert np.corrcoef(found.numpy(), replaced)[0, 1] > 0.999


@pytest.mark.parametrize("kind", ["flat", "ivf", "pq"])
def test_an_index_finds_an_image_itself_first(tmp_path: Path, kind: index.Kind) -> None:
    sets = _sets(700, tokens=2, dim=16)
    basis = index.projection(sets, 16, seed=0)
    vectors = index.pooled(sets, basis, tmp_path / "vectors", _ignore)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = index.neighbours(index.build(vectors, kind, seed=0), vectors[:50], 5)
    assert found.shape == (50, 5)
    assert (found[:, 0] == np.arange(50)).mean() > (0.5 if kind == "pq" else 0.99)


def test_vectors_of_short_tokens_are_the_tokens_themselves(tmp_path: Path) -> None:
    sets = _sets(9, tokens=1, dim=4)
    assert index.projection(sets, 4, seed=0) is None
    vectors = index.pooled(sets, None, tmp_path / "vectors", _ignore)
    np.testing.assert_allclose(vectors, sets.unit(slice(0, 9)).tokens[:, 0].numpy())


@pytest.mark.parametrize(
    ("kind", "most", "probed", "moved"),
    [
        ("flat", 2048, None, True),
        ("flat", 2049, None, False),
        ("ivf", 2048, 2048, True),
        ("ivf", 2048, 2049, False),
        ("pq", 2048, 2048, False),
    ],
)
def test_gpus_are_left_alone_where_an_index_cannot_work_there(
    monkeypatch: pytest.MonkeyPatch, kind: index.Kind, most: int, probed: int | None, moved: bool
) -> None:
    monkeypatch.setattr(index.faiss, "get_num_gpus", lambda: 2, raising=False)
    monkeypatch.setattr(index.faiss, "index_cpu_to_all_gpus", lambda one: ("on gpus", one), raising=False)
    built = index.build(np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32), kind, 0)
    if probed is not None:
        index.faiss.extract_index_ivf(built).nprobe = probed
    assert (index.on_gpus(built, most) is not built) == moved


def _finder(sets: TokenSets, folder: Path) -> Finder:
    vectors = index.pooled(sets, index.projection(sets, 8, seed=0), folder / "vectors", _ignore)
    centroids = learn(sets, 4, seed=0)
    return Finder(
        vectors, index.build(vectors, "flat", 0), centroids, encode(sets, centroids, folder / "codes", _ignore)
    )


def test_more_candidates_only_add_and_never_are_the_image_itself(tmp_path: Path) -> None:
    sets, rows = _sets(200), np.array([3, 150])
    finder = _finder(sets, tmp_path)
    few, more = (candidates(finder, sets, rows, count, "reference") for count in (5, 40))
    for row, own, larger in zip(rows, few, more, strict=True):
        assert set(own) <= set(larger)
        assert row not in larger
        assert (np.diff(larger) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("direction", ["reference", "candidate"])
@pytest.mark.parametrize("masked", [False, True])
def test_all_images_as_candidates_give_the_exact_ranking(
    tmp_path: Path, direction: Direction, masked: bool, dtype: torch.dtype
) -> None:
    sets = _sets(60, masked=masked)
    kind = torch.bfloat16 if dtype == torch.bfloat16 else torch.float16
    loss = prepare(sets, kind, tmp_path / "tokens", _ignore)
    stored = torch.from_numpy(np.load(tmp_path / "tokens", mmap_mode="c")).view(kind)
    prepared = Prepared(stored, loss, None if sets.mask is None else torch.from_numpy(sets.mask), dtype)
    rows = np.arange(10, 40, 2)
    # Every second reference wants everything, so what it wants is shared; the others want little and gain.
    lists: list[Integers] = [np.delete(np.arange(60), row) if row % 4 else np.array([0, 59]) for row in rows]
    found = rerank(prepared, sets, rows, lists, 6, direction)
    exact = top_k(sets.subset(rows), sets, 6, direction, rows)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.scores, exact.scores)
