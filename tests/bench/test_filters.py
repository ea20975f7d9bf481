"""The study of the filters: what they drop is chosen on one pool, and keeps what it is asked to keep."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bench.filters import OPEN, choose, main, threshold
from data.artifact import Artifact, Counts, seal, write_table
from data.schemas import VERDICTS
from tests.tasks.filters.triplets import triplet, triplets_of


class Pool:
    """Ten triplets, the even ones right; what each filter measured is made up."""

    def __init__(self, folder: Path, values: dict[str, list[float | None]]) -> None:
        self.right = {f"t-{place:04d}": place % 2 == 0 for place in range(10)}
        triplets_of(folder, [triplet("make it red")] * 10)
        rows = [
            {"triplet_id": f"t-{place:04d}", "filter": name, "value": value, "threshold": 0.0, "kept": True}
            for name in OPEN
            for place, value in enumerate(values.get(name, [0.5] * 10))
        ]
        rows.append({"triplet_id": "t-9999", "filter": "judge", "value": 1.0, "threshold": 0.0, "kept": True})
        table = pa.Table.from_pylist([row | {"reason": None} for row in rows], schema=VERDICTS)
        write_table(folder / "verdicts.parquet", table, VERDICTS)
        (folder / "manifest.json").unlink()
        self.artifact = seal(folder, Counts(read=10, kept=10, written=10), stage="filter")

    def filtered(self, settings: Any) -> Artifact:
        assert settings == OPEN
        return self.artifact


def test_the_shares_that_leave_the_fewest_wrong_ones_are_chosen(tmp_path: Path) -> None:
    told: list[float | None] = [0.9 if place % 2 == 0 else 0.1 + place / 100 for place in range(10)]
    chosen = choose(Pool(tmp_path / "a", {"round_trip": told}), 0.7)  # type: ignore[arg-type]
    # The least of the shares that drop two of ten; the other filters, of equal values, drop none or all.
    assert chosen["round_trip"] == pytest.approx(0.225)
    assert {chosen[name] for name in OPEN if name != "round_trip"} == {0}
    assert choose(Pool(tmp_path / "b", {"round_trip": told}), 1.0)["round_trip"] < 0.1  # type: ignore[arg-type]
    # The other way round: what is short is kept.
    long: list[float | None] = [9.0 if place in (1, 3) else 3.0 for place in range(10)]
    assert choose(Pool(tmp_path / "c", {"too_long": long}), 0.5)["too_long"] == pytest.approx(0.225)  # type: ignore[arg-type]


def test_a_share_becomes_a_threshold_that_drops_no_more() -> None:
    values = np.array([1.0, 1.0, 2.0, 3.0, 4.0, np.inf])
    assert threshold("round_trip", values, 0.5) == 2  # two of six are below it, three would be below 3
    assert threshold("round_trip", values, 0.2) == 1
    assert threshold("too_long", -values, 0.2) == -1
    assert threshold("too_long", -values, 0.5) == -2


def test_one_pool_cannot_be_both(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seed", "3", "--tune-seed", "3"])
    assert "give two seeds" in capsys.readouterr().err
