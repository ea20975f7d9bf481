"""The measurement of ingest, at a size at which it proves only that it measures."""

import json
from pathlib import Path

import pytest

from bench.ingest import main


def test_it_ingests_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "before"))  # it is set there, and put back here
    main(["--rows", "300", "--per-shard", "100", "--folder", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    # 30 failed downloads, and 3 pictures with the digest of the one before.
    assert (found["rows"], found["shards"], found["kept"]) == (300, 3, 267)
    assert found["peak_mib"] >= 0
    assert len(list((tmp_path / "shards").iterdir())) == 9
