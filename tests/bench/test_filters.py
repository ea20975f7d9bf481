"""The study of the filters: what they drop is chosen on one pool, and keeps what it is asked to keep."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.filters import OPEN, PARTS, choose, droppable, main, settings_of
from data.artifact import Artifact, Counts, seal, write_table
from data.schemas import VERDICTS
from tests.tasks.filters.triplets import triplet, triplets_of

SIZE = 400


class Pool:
    """Triplets, the even ones right; what each filter measured is made up, of ten for all."""

    def __init__(self, folder: Path, values: dict[str, list[float | None]]) -> None:
        self.right = {f"t-{place:04d}": place % 2 == 0 for place in range(SIZE)}
        triplets_of(folder, [triplet("make it red")] * SIZE)
        rows = [
            {"triplet_id": f"t-{place:04d}", "filter": name, "value": value, "threshold": 0.0, "kept": True}
            for name in OPEN
            for place, value in enumerate(values.get(name, [0.5] * 10) * (SIZE // 10))
        ]
        rows.append({"triplet_id": "t-9999", "filter": "judge", "value": 1.0, "threshold": 0.0, "kept": True})
        table = pa.Table.from_pylist([row | {"reason": None} for row in rows], schema=VERDICTS)
        write_table(folder / "verdicts.parquet", table, VERDICTS)
        (folder / "manifest.json").unlink()
        self.artifact = seal(folder, Counts(read=SIZE, kept=SIZE, written=SIZE), stage="filter")

    def filtered(self, settings: Any) -> Artifact:
        assert settings in (OPEN, {})
        return self.artifact


def test_the_shares_that_leave_the_fewest_wrong_ones_are_chosen(tmp_path: Path) -> None:
    told: list[float | None] = [0.9 if place % 2 == 0 else 0.1 + place / 100 for place in range(10)]
    chosen = choose(Pool(tmp_path / "a", {"round_trip": told}), 0.7)  # type: ignore[arg-type]
    # All that may go, for five of ten are wrong; the other filters, of equal values, drop none.
    assert chosen["round_trip"] == PARTS
    assert {chosen[name] for name in OPEN if name != "round_trip"} == {0}
    assert choose(Pool(tmp_path / "b", {"round_trip": told}), 0.88)["round_trip"] == 7  # type: ignore[arg-type]
    # The other way round: what is short is kept. Of the shares that drop two of ten the least is taken.
    long: list[float | None] = [9.0 if place in (1, 3) else 3.0 for place in range(10)]
    assert choose(Pool(tmp_path / "c", {"too_long": long}), 0.7)["too_long"] == 6  # type: ignore[arg-type]


def test_a_second_filter_has_to_be_worth_it(tmp_path: Path) -> None:
    """One wrong triplet fewer among 300 is chance; two in ten are not."""
    told: list[float | None] = [0.9 if place % 2 == 0 else 0.1 + place / 100 for place in range(10)]
    barely: list[float | None] = [0.5] * 10
    pool = Pool(tmp_path / "a", {"round_trip": told, "judge": barely})
    judged = [0.5] * SIZE
    judged[9] = 0.1  # a wrong one that round_trip passes
    rows = pool.artifact.read(VERDICTS, "verdicts.parquet").to_pylist()
    of_judge = [row for row in rows if row["filter"] == "judge" and row["triplet_id"] != "t-9999"]
    for row, value in zip(of_judge, judged, strict=True):
        row["value"] = value
    write_table(tmp_path / "a" / "verdicts.parquet", pa.Table.from_pylist(rows, schema=VERDICTS), VERDICTS)
    chosen = choose(pool, 0.7)  # type: ignore[arg-type]
    assert chosen["round_trip"] > 0
    assert chosen["judge"] == 0


def test_later_filters_drop_a_share_of_what_is_left(tmp_path: Path) -> None:
    """One filter finds the first wrong one of ten, the other the third; neither finds both, nor measures all."""
    one: list[float | None] = [0.1 if place == 1 else None if place == 5 else 0.9 for place in range(10)]
    other: list[float | None] = [0.1 if place == 3 else 0.9 for place in range(10)]
    chosen = choose(Pool(tmp_path, {"round_trip": one, "judge": other}), 0.7)  # type: ignore[arg-type]
    assert chosen["round_trip"] == chosen["judge"] == 3


def test_the_shares_leave_the_yield_on_every_pool(tmp_path: Path) -> None:
    """What the filters that are always on drop of a pool is taken from what the others may drop of it."""
    for name, gone in (("a", 0), ("b", 37)):
        pool = Pool(tmp_path / name, {})
        pool.right |= {f"g-{place}": False for place in range(gone)}
        settings = settings_of(pool, {"unsupported": 5, "judge": 3, "far_apart": 0}, 0.7)  # type: ignore[arg-type]
        assert list(settings) == ["unsupported", "judge"]
        left = (1 - settings["unsupported"]["drop"]) * (1 - settings["judge"]["drop"]) * SIZE / (SIZE + gone)
        assert 0.7 <= left < 0.73
    with pytest.raises(ValueError, match="keep 400 of 600 triplets, less than 70"):
        droppable(400, 600, 0.7)


def test_one_pool_cannot_be_both(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seed", "3", "--tune-seed", "3"])
    assert "give two seeds" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0", "1", "70"])
def test_a_yield_is_a_share(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--least-yield", given])
    assert f"between 0 and 1, not {given}" in capsys.readouterr().err
