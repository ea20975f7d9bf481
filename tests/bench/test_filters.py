"""The study of the filters: thresholds come from one pool, and keep what they are asked to keep."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.filters import OPEN, choose, main
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


def test_the_thresholds_that_leave_the_fewest_wrong_ones_are_chosen(tmp_path: Path) -> None:
    told: list[float | None] = [0.9 if place % 2 == 0 else 0.1 + place / 100 for place in range(10)]
    chosen = choose(Pool(tmp_path / "a", {"round_trip": told}), 0.6)  # type: ignore[arg-type]
    assert {chosen[name] for name in OPEN if name != "round_trip"} == {0.5}
    kept = [value for value in told if value is not None and value >= chosen["round_trip"]]
    assert 6 <= len(kept) < 10  # all of the five right ones, and at least one more to keep six of ten
    unknown: list[float | None] = [None, *told[1:]]
    other = choose(Pool(tmp_path / "b", {"round_trip": unknown}), 1.0)  # type: ignore[arg-type]
    assert other["round_trip"] == pytest.approx(min(value for value in told if value is not None))
    # The other way round: what is short is kept.
    long: list[float | None] = [9.0 if place in (1, 3, 5) else 3.0 for place in range(10)]
    assert choose(Pool(tmp_path / "c", {"too_long": long}), 0.5)["too_long"] < 9  # type: ignore[arg-type]


def test_one_pool_cannot_be_both(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seed", "3", "--tune-seed", "3"])
    assert "give two seeds" in capsys.readouterr().err
