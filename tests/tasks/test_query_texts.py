"""Target texts of benchmarks' queries as a stage."""

from pathlib import Path

import pytest

import tasks.query_texts
from data.artifact import Artifact, read_table
from data.benchmarks import Query
from data.config import Resources
from data.schemas import REJECTED
from tasks.query_texts import QueryTextsConfig, query_texts, texts_of
from tasks.target_texts import TargetTextConfig
from tests.tasks.compass import World
from tests.tasks.scripted_generate import small_model, use_scripted_backend


def test_every_query_has_a_text_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    use_scripted_backend()
    queries = [Query(f"q{number}", f"i{number % 3}", f"at {number}", ("i3",)) for number in range(5)]
    benchmark = World().benchmark(*queries, Query("blank", "i0", " ", ("i3",)))
    monkeypatch.setattr(tasks.query_texts, "load_benchmark", lambda name, split: benchmark)
    writer = TargetTextConfig(backend="scripted", model=str(small_model(tmp_path / "model")), retries=0)
    config = QueryTextsConfig(benchmarks=("one",), split="val", writer=writer)
    found = query_texts.make(config, resources=Resources(chunk=2))
    counts = found.artifact.counts
    assert (counts.read, counts.kept, counts.dropped) == (6, 5, {"empty_modification": 1})
    texts, missing = texts_of(found.artifact, benchmark)
    assert missing == 1
    assert all(text.startswith("a thing ") for text in texts[:5])
    assert texts[5] == " "  # its modification
    rejected = read_table(found.artifact.file("rejected.parquet"), REJECTED).to_pylist()
    assert [row["row_id"] for row in rejected] == ["one/blank"]
    assert query_texts.make(config, resources=Resources()).state == "cached"
    other = World().benchmark(*queries, digest="changed")
    with pytest.raises(ValueError, match="not for the queries of one"):
        texts_of(Artifact(found.artifact.path, "query_texts", found.artifact.key), other)
