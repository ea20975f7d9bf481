"""What is measured of orchestration, with the toy recipe."""

import sys
from pathlib import Path

import pytest

from bench.orchestration import cached, orchestrated
from tests.flows.toy import RECIPE, Toy


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_lies_between_stages_is_told_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))
    found = orchestrated(RECIPE, Toy())
    assert found["orchestration_seconds"] == pytest.approx(found["seconds"] - found["stage_seconds"], abs=0.02)
    assert 0 < found["orchestration_share"] < 1


def test_a_run_that_had_to_work_is_no_cached_one() -> None:
    said = "import sys; print('count: cached, 10 rows in\\ndouble: ran, 5 rows in', file=sys.stderr)"
    with pytest.raises(RuntimeError, match="double: ran"):
        cached([sys.executable, "-c", said], 1)
    found = cached([sys.executable, "-c", said.replace("ran", "cached")], 2)
    assert 0 < found["cached_core_seconds"] < found["cached_seconds"] + 1
