"""Target texts of a benchmark's queries from a scripted model: asked once, kept, and counted where there is none."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from data.benchmarks import Query
from data.config import Resources
from data.schemas import GENERATIONS
from tasks.target_texts import MissingTexts, TargetTextConfig, TargetTexts, write_target_texts
from tests.tasks.compass import World
from tests.tasks.scripted_generate import small_model, use_scripted_backend


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TargetTextConfig:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    use_scripted_backend()
    return TargetTextConfig(backend="scripted", model=str(small_model(tmp_path / "model")), retries=1)


def ask(folder: Path, config: TargetTextConfig, count: int) -> TargetTexts:
    queries = [Query(f"q{number}", f"i{number % 3}", f"at {number}", ("i3",)) for number in range(count)]
    benchmark = World().benchmark(*queries)
    return write_target_texts([benchmark], config, Resources(chunk=2), folder / "generations.parquet")


def test_nothing_is_asked_twice(tmp_path: Path, config: TargetTextConfig) -> None:
    first = ask(tmp_path, config, 4)
    assert (first.asked, first.reused, first.faults) == (4, 0, {"one": {}})
    assert set(first.texts["one"]) == {"q0", "q1", "q2", "q3"}
    assert all(text.startswith("a thing ") for text in first.texts["one"].values())
    assert len(set(first.texts["one"].values())) == 4
    # Two more queries cost two requests.
    second = ask(tmp_path, config, 6)
    assert (second.asked, second.reused) == (2, 4)
    assert {one: second.texts["one"][one] for one in first.texts["one"]} == first.texts["one"]
    rows = pq.read_table(tmp_path / "generations.parquet").cast(GENERATIONS).to_pylist()
    assert {row["prompt"] for row in rows} == {"mvft_ji/target_text"}
    assert sorted(row["rendered"].rpartition("Change: ")[2] for row in rows) == [f"at {number}" for number in range(6)]
    first.check()


def test_queries_without_an_answer_are_listed(
    tmp_path: Path, config: TargetTextConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_BAD", "256")
    texts = ask(tmp_path, config, 30)
    assert texts.texts == {"one": {}}
    assert list(texts.faults["one"]) == [f"q{number}" for number in range(30)]
    assert texts.asked == 60  # each once more
    with pytest.raises(MissingTexts) as caught:
        texts.check()
    told = str(caught.value)
    assert "gave no usable target text for 30 of 30 queries" in told
    assert "one/q0: " in told
    assert "one/q20" not in told
    assert "and 10 more" in told
    assert "--allow-missing" in told


def test_a_query_that_asks_nothing_is_not_asked(tmp_path: Path, config: TargetTextConfig) -> None:
    # As pairid 27098 of CIRR's test split.
    benchmark = World().benchmark(Query("q", "i0", " ", ("i3",)), Query("r", "i1", "at 2", ("i3",)))
    texts = write_target_texts([benchmark], config, Resources(chunk=2), tmp_path / "generations.parquet")
    assert texts.asked == 1
    assert list(texts.texts["one"]) == ["r"]
    assert texts.faults == {"one": {"q": ("empty_modification", "")}}


def test_a_prompt_for_something_else_is_refused() -> None:
    with pytest.raises(ValidationError, match="want 1 image"):
        TargetTextConfig(model="m", prompt="caption")
