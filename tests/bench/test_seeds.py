"""The measurement of seeds side by side, on very little."""

import argparse
from pathlib import Path

import pytest

from bench.seeds import bench
from tasks import train_together


def test_it_trains_the_same_seeds_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))
    counts = []
    apart = train_together.train_apart
    monkeypatch.setattr(
        train_together,
        "train_apart",
        lambda job, groups, count, threads: (counts.append(count), apart(job, groups, count, threads)),
    )
    found = bench(argparse.Namespace(images=40, seeds=2, epochs=1, repeats=1))
    assert counts == [2]
    assert found["triplets"] == 40
    assert found["ratio"] == found["seconds"]["side_by_side"] / found["seconds"]["one_by_one"] > 0
