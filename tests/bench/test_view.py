"""The measurement of the page, over a few triplets."""

import json

import pytest

from bench.view import main


@pytest.mark.slow
def test_it_prints_one_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", "replaced by the measurement")
    main(["--rows", "300", "--images", "40", "--rounds", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 300
    assert all(found[name] > 0 for name in ("first_page_s", "filter_s", "search_s"))
    assert all(found["peak_gib"][name] > 0.05 for name in ("browse", "search"))
