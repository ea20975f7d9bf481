"""The latency of a search, over a gallery of a few images."""

import json

import pytest

from bench.search import main


def test_it_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--n", "50", "--tokens", "4", "--dim", "8", "--rounds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["tokens"], found["dim"], found["k"]) == (50, 4, 8, 10)
    assert found["rank_seconds"] > 0
    assert found["compose_seconds"] > 0
    assert found["rank_core_seconds"] > 0
