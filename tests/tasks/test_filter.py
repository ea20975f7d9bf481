"""The filter stage: every row accounted for, in order, and what its filters ask and know."""

import importlib
from pathlib import Path
from typing import Any

import pytest

import tasks.filters
from data.artifact import Artifact
from data.schemas import GENERATIONS, REJECTED, TRIPLETS, VERDICTS
from tasks.filter import FilterConfig, filter, read_yields
from tasks.filters import Measured, World, image_alone, judge, text_alone, too_long
from tests.models.tiny_blip2 import tiny_checkpoint
from tests.tasks.filters.triplets import RESOURCES, measured, tokens_of, triplet, triplets_of
from tests.tasks.scripted_generate import small_images, small_model, use_scripted_backend

GENERIC = "make it different"
LONG = "red " * 60
DOGS = ("two red dogs chase balls", "two blue dogs chase balls")
ROWS = [triplet(text) for text in ("make it red", GENERIC, LONG, "a blue square", GENERIC, "two hearts")]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    return tmp_path


def run(folder: Path, config: FilterConfig, rows: list[dict[str, Any]]) -> Artifact:
    images = small_images(folder / "images", 4)
    tokens = tokens_of(folder / "tokens", {"i000": (1, 0), "i001": (0, 1), "i002": (1, 1), "i003": (1, 2)})
    return filter.make(config, triplets_of(folder / "triplets", rows), images, tokens, resources=RESOURCES).artifact


def test_every_file_of_the_folder_is_in_the_config() -> None:
    assert set(tasks.filters.names()) == set(FilterConfig.model_fields)


def test_every_triplet_is_kept_or_dropped_for_a_reason(store: Path) -> None:
    made = run(store, FilterConfig(), ROWS)
    kept, dropped = (made.read(TRIPLETS, f"{name}.parquet").to_pylist() for name in ("triplets", "dropped"))
    assert [row["triplet_id"] for row in kept] == ["t-0000", "t-0003", "t-0005"]
    assert kept[0] == ROWS[0]
    assert [row["triplet_id"] for row in dropped] == ["t-0001", "t-0002", "t-0004"]
    counts = made.counts
    assert (counts.read, counts.kept, counts.written) == (6, 3, 3)
    assert counts.dropped == {"too_generic": 2, "too_long": 1}
    rejected = made.read(REJECTED, "rejected.parquet").to_pylist()
    assert [(row["row_id"], row["reason"]) for row in rejected] == [
        ("t-0001", "too_generic"),
        ("t-0002", "too_long"),
        ("t-0004", "too_generic"),
    ]
    assert rejected[0]["detail"] == "0, at least 1; make it different"


def test_a_share_is_of_what_could_be_measured(store: Path) -> None:
    rows = [triplet("make it red") | {"reference_caption": caption} for caption in (None, *DOGS, None)]
    made = run(store, FilterConfig.model_validate({"reference_leak": {"drop": 0.5}}), rows)
    leaks = [one for one in read_yields(made) if one["filter"] == "reference_leak"]
    assert (leaks[0]["read"], leaks[0]["kept"], leaks[0]["unjudged"]) == (4, 3, {"no_caption": 2})
    assert made.read(TRIPLETS, "dropped.parquet")["triplet_id"].to_pylist() == ["t-0001"]


def test_what_one_filter_drops_the_next_does_not_see(store: Path) -> None:
    made = run(store, FilterConfig(), ROWS)
    yields = {one["filter"]: one for one in read_yields(made)}
    assert list(yields) == ["too_long", "too_generic", "image_talk", "reference_leak", "names_target", "same_text"]
    assert (yields["too_long"]["read"], yields["too_long"]["kept"], yields["too_long"]["dropped"]) == (6, 5, 1)
    assert (yields["too_generic"]["read"], yields["too_generic"]["kept"]) == (5, 3)
    assert yields["same_text"]["unjudged"] == {"no_target_text": 3}
    verdicts = made.read(VERDICTS, "verdicts.parquet").to_pylist()
    assert [row["triplet_id"] for row in verdicts if row["filter"] == "too_generic"] == [
        f"t-{place:04d}" for place in (0, 1, 3, 4, 5)
    ]
    assert verdicts[2] == {
        "triplet_id": "t-0002", "filter": "too_long", "value": 60.0, "threshold": 50.0, "kept": False,
        "reason": "too_long",
    }  # fmt: skip
    assert {row["reason"] for row in verdicts if row["filter"] == "same_text"} == {"no_target_text"}


def test_without_filters_and_without_triplets(store: Path) -> None:
    off = FilterConfig.model_validate({name: {"on": False} for name in FilterConfig.model_fields})
    assert run(store / "a", off, ROWS).read(TRIPLETS, "triplets.parquet").to_pylist() == [
        row | {"triplet_id": f"t-{place:04d}"} for place, row in enumerate(ROWS)
    ]
    empty = run(store / "b", FilterConfig(), [])
    assert (empty.counts.read, empty.counts.dropped) == (0, {})


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("drop", [None, 0.5])
def test_a_filter_that_loses_or_doubles_a_row_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, count: int, drop: float | None
) -> None:
    monkeypatch.setattr(too_long.Config, "measure", lambda self, rows, world: iter([Measured(1.0)] * count))
    with pytest.raises(RuntimeError, match=f"filter too_long gave {count} values for 6 triplets"):
        run(store, FilterConfig.model_validate({"too_long": {"drop": drop}}), ROWS)


@pytest.mark.parametrize("rows_at_a_time", [4, 4096])
def test_a_share_is_dropped_in_place_of_what_a_threshold_would(
    store: Path, monkeypatch: pytest.MonkeyPatch, rows_at_a_time: int
) -> None:
    monkeypatch.setattr("tasks.filter._ROWS", rows_at_a_time)
    rows = [triplet("red " * count) for count in (1, 9, 3, 7, 7, 2, 60, 4, 5, 6)]
    made = run(store, FilterConfig.model_validate({"too_long": {"drop": 0.3}, "reference_leak": {"on": False}}), rows)
    kept = made.read(TRIPLETS, "triplets.parquet")["triplet_id"].to_pylist()
    assert kept == [f"t-{place:04d}" for place in (0, 2, 3, 4, 5, 7, 8, 9)]  # of 7 there are two: both stay
    long = next(one for one in read_yields(made) if one["filter"] == "too_long")
    assert (long["read"], long["kept"], long["dropped"], long["threshold"]) == (10, 8, 2, 7.0)
    verdicts = made.read(VERDICTS, "verdicts.parquet").to_pylist()
    assert [(row["threshold"], row["kept"]) for row in verdicts[:2]] == [(7.0, True), (7.0, False)]
    assert made.read(REJECTED, "rejected.parquet")["detail"].to_pylist()[0].startswith("9, at most 7")


def test_ranks_by_the_reference_alone(store: Path) -> None:
    """Cosines with i000 = (1, 0): i001 0, i002 0.71, i003 0.45."""
    tokens = tokens_of(store / "tokens", {"i000": (1, 0), "i001": (0, 1), "i002": (1, 1), "i003": (1, 2)})
    world = World(tokens, tokens, RESOURCES, lambda rows: None)
    rows = [triplet("make it red", target_id=target) for target in ("i001", "i002", "i003", None)]
    found = measured(image_alone.Config(), *rows, world=world)
    assert [one.value for one in found] == [3, 1, 2, None]
    # A sample of two: the reference is no candidate, and the target is ranked whether it was drawn or not.
    few = [one.value for one in measured(image_alone.Config(gallery=2), *rows[:3], world=world)]
    assert few[1] == 1
    assert all(value is not None and value <= rank for value, rank in zip(few, (3, 1, 2), strict=True))


@pytest.mark.slow
def test_ranks_by_the_text_alone(store: Path) -> None:
    checkpoint = tiny_checkpoint(store / "checkpoint")
    from models.checkpoints import resolve
    from models.encoders import load_encoder

    encoder = load_encoder(str(checkpoint))
    text = encoder.text_tokens(["red circle"]).tokens[0, 0].tolist()
    facts = {"weights": resolve(str(checkpoint)).revision, "dtype": "float32"}
    vectors = {"i000": text, "i001": [-one for one in text], "i002": text[::-1]}
    tokens = tokens_of(store / "tokens", vectors, config={"checkpoint": str(checkpoint)}, facts=facts)
    world = World(tokens, tokens, RESOURCES, lambda rows: None)
    rows = [
        triplet("red circle", reference_id=reference, target_id=target)
        for reference, target in (("i001", "i000"), ("i000", "i001"), ("i002", "i001"))
    ]
    assert [one.value for one in measured(text_alone.Config(), *rows, world=world)] == [1, 2, 2]


def scripted(folder: Path, **settings: Any) -> dict[str, Any]:
    use_scripted_backend()
    return {"on": True, "backend": "scripted", "model": str(small_model(folder / "model")), **settings}


def test_the_judge_is_asked_once_per_pair_and_thresholded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_LOG", str(store / "log"))
    monkeypatch.setenv("SCRIPTED_CHOICES", "1")
    rows = [triplet(f"make it {word}") for word in ("red", "green", "blue", "cyan", "pink")]
    rows += [triplet("make it gray", target_id=None, target_text="a gray circle")]
    config = FilterConfig.model_validate({"judge": scripted(store)})
    made = run(store / "a", config, rows)
    verdicts = [row for row in made.read(VERDICTS, "verdicts.parquet").to_pylist() if row["filter"] == "judge"]
    values = [row["value"] for row in verdicts]
    assert values[5] is None
    assert verdicts[5]["reason"] == "no_target_image"
    assert [row["kept"] for row in verdicts] == [value is None or value >= 0.5 for value in values]
    assert len(set(values)) == 6
    asked = made.read(GENERATIONS, "generations.parquet")
    assert asked["prompt"].to_pylist() == ["judge"] * 5
    assert len((store / "log").read_text().splitlines()) == 5
    stricter = FilterConfig.model_validate({"judge": scripted(store, threshold=1.0)})
    assert run(store / "b", stricter, rows).counts.kept == 1  # without a target image it cannot be judged
    assert len((store / "log").read_text().splitlines()) == 5  # the ledger had the answers


def test_a_judge_without_probabilities_is_taken_at_its_word() -> None:
    from tasks.replies import Rejected
    from tasks.requests import Outcome

    words = [judge._read(Outcome("t", {"verdict": word}, "r", "")) for word in ("yes", "No.", "perhaps")]
    assert words == [(1.0, "yes"), (0.0, "no"), (None, "judge_neither_yes_nor_no")]
    assert judge._read(Outcome("t", Rejected("refusal"), "r", "I'm sorry")) == (None, "judge_refusal")


def test_a_judges_probabilities_count_if_they_are_of_its_word() -> None:
    from tasks.requests import Outcome

    def read(word: str, *shares: float) -> Measured:
        return judge._read(Outcome("t", {"verdict": word}, "r", "", shares))

    assert read("yes", 0.75, 0.25) == (0.75, "yes")
    assert read("No.", 0.25, 0.75) == (0.25, "no")
    assert read("no", 0.5, 0.5) == (0.5, "no")
    # As the ledger may have it of: I see no mismatch: {"verdict": "yes"}
    assert read("yes", 0.0, 1.0) == (1.0, "yes")
    assert read("perhaps", 0.0, 1.0) == (None, "judge_neither_yes_nor_no")


def test_a_round_trip_is_compared_with_the_targets_caption(store: Path) -> None:
    rows = [triplet("make it red"), triplet("make it blue", target_caption=None)]
    off = {name: {"on": False} for name in FilterConfig.model_fields}
    made = run(store, FilterConfig.model_validate(off | {"round_trip": scripted(store)}), rows)
    first, second = made.read(VERDICTS, "verdicts.parquet").to_pylist()
    assert (first["value"], first["kept"]) == (0.0, False)  # the scripted backend writes of some thing
    assert (second["value"], second["reason"]) == (None, "no_caption")


def test_filters_that_ask_the_same_model_share_its_engine(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"round_trip": scripted(store, threshold=0), "judge": scripted(store)}
    engine = importlib.import_module("models.backends.scripted").Scripted
    closed: list[object] = []
    monkeypatch.setattr(engine, "opened", 0)
    monkeypatch.setattr(engine, "close", lambda one: closed.append(one))  # a method, which a builtin would not be
    run(store / "a", FilterConfig.model_validate(settings), ROWS[:1])
    assert (engine.opened, len(closed)) == (1, 1)
    other = settings["judge"] | {"model": str(small_model(store / "other")), "sampling": {"seed": 1}}
    run(store / "b", FilterConfig.model_validate(settings | {"judge": other}), ROWS[3:4])
    assert (engine.opened, len(set(map(id, closed)))) == (3, 3)


def test_what_cannot_be_asked_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"no backend 'vlm'.*prompt 'caption' shows 1 images"):
        judge.Config(backend="vlm", prompt="caption")


def test_the_key_knows_what_the_settings_name(store: Path) -> None:
    settings = scripted(store)
    before = judge.Config(**settings).facts()
    (store / "model" / "model.safetensors").write_bytes(b"other weights")
    scripted_again = judge.Config(**settings).facts()
    assert scripted_again["revision"] != before["revision"]
    assert scripted_again["prompt"] == before["prompt"]
