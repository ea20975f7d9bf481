"""The scoring benchmark over a gallery of a few images."""

from pathlib import Path

import numpy as np
import pytest

from bench.score import bench, write_gallery
from bench.synthetic import CHUNK, synthetic


def test_a_gallery_written_in_chunks(tmp_path: Path) -> None:
    count = CHUNK + 5
    written = write_gallery(tmp_path / "gallery.npy", count, 2, 4, "aligned")
    first = synthetic(CHUNK, 2, 4, "aligned")
    assert np.array_equal(written[:CHUNK], first)
    assert np.array_equal(written[CHUNK:, :, [1, 2, 3, 0]], first[:5])  # turned by one place


def test_a_slab_stands_for_all_queries() -> None:
    found = bench(queries=9, gallery=60, tokens=4, dim=8, kind="aligned", slab=3)
    assert (found["queries"], found["slab"], found["answers"]) == (9, 3, 3)
    assert found["pairs_per_core_second"] * found["core_seconds"] == pytest.approx(180)
    assert not found["goal"]["measured"]


def test_figures_follow_from_the_pairs() -> None:
    found = bench(queries=5, gallery=60, tokens=4, dim=8, kind="scattered")
    assert found["answers"] == 5
    # 5 x 60 pairs took core_seconds; the goal is 4,000 x 120,000 pairs, 1.6 million times as many.
    assert found["pairs_per_core_second"] * found["core_seconds"] == pytest.approx(300)
    assert found["goal"]["core_hours"] == pytest.approx(found["core_seconds"] * 1.6e6 / 3600)
