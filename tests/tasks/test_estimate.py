"""An estimate is what the run then comes to, and nothing of it is paid twice."""

from pathlib import Path

import pytest
import typer

from data.config import Resources, StageConfig
from flows.estimate import execute_estimate, sentences
from tasks.estimate import Estimate, Expected, estimate
from tasks.generate import generate
from tasks.report_generation import generation
from tasks.runs import start_run
from tests.tasks.scripted_generate import CHUNK, config_of, small_images, small_model, small_pairs

RESOURCES = Resources(chunk=CHUNK)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))


def test_an_estimate_over_all_rows_is_exact_and_paid_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_BAD", "100")
    pairs, images = small_pairs(tmp_path / "pairs", 30, 3), small_images(tmp_path / "images", 30)
    config = config_of(small_model(tmp_path / "model"))
    found = estimate(config, pairs, images, RESOURCES, rows=100)
    artifact = generate.make(config, pairs, images, resources=RESOURCES).artifact
    detail = artifact.counts.detail
    assert (found.sampled, found.sources) == (30, 30)
    assert found.triplets == found.least == found.most == artifact.counts.written
    assert found.total.requests == found.total.to_ask == found.timed == detail["reused"]
    assert (found.total.tokens_in, found.total.tokens_out) == (detail["tokens_in"], detail["tokens_out"])
    assert detail["asked"] == 0
    # A second one finds everything in the ledger.
    again = estimate(config, pairs, images, RESOURCES, rows=100)
    assert (again.timed, again.total.to_ask, again.total.tokens_in) == (0, 0, 0)
    assert "nothing could be timed" in sentences(again, None)[-1]


def test_a_sample_is_scaled_by_images_and_by_rows(tmp_path: Path) -> None:
    pairs, images = small_pairs(tmp_path / "pairs", 60, 3), small_images(tmp_path / "images", 60)
    config = config_of(small_model(tmp_path / "model"), texts_per_pair=2)
    found = estimate(config, pairs, images, RESOURCES, rows=12, seed=0)
    captions, modifications = found.prompts
    # Every image is captioned once and every pair asked twice, whatever the sample was.
    assert (captions.to_ask, modifications.to_ask, found.triplets) == (60, 120, 120)
    assert (captions.tokens_in, modifications.tokens_in) == (60 * 20, 120 * 30)  # as the scripted backend counts
    assert found.least < found.most == 120
    assert 12 * 2 < found.timed <= 12 * 2 + 12 * 2
    run = generate.make(config, pairs, images, resources=RESOURCES).artifact
    assert run.counts.detail["reused"] == found.timed
    assert run.counts.detail["asked"] == 180 - found.timed


def test_a_model_that_is_not_here_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, images = small_pairs(tmp_path / "pairs", 6, 3), small_images(tmp_path / "images", 6)

    def execute(*arguments: object) -> None:
        with start_run("mra_cir", ["generate"], StageConfig()):
            generate(config_of(Path("nobody/nothing")), pairs, images, resources=RESOURCES)

    monkeypatch.setattr("flows.estimate.execute", execute)
    with pytest.raises(typer.Exit) as info:
        execute_estimate("mra_cir", [], [], 5)
    assert info.value.exit_code == 1
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "error: HF_HUB_OFFLINE is set and the local cache holds no copy of 'nobody/nothing' at 'main'; download it"
        " first with 'hf download nobody/nothing', or give the path of a folder"
    ]


def test_money_is_hours_times_gpus_times_price() -> None:
    total = Expected("all", 3000, 3000, 9, 9, 7000.0)
    found = Estimate(200, 1000, 600, 900, 850, 950, (total,), total, start_seconds=200.0, devices=4, chunk=512)
    assert found.hours == 2.0  # (7,000 + 200) / 3,600
    assert found.money(2.5) == 20.0
    told = "\n".join(sentences(found, 2.5))
    for part in ("900 (850 to 950)", "2.0 hours on 4 GPUs", "20.00 at 2.50", "22.22 per thousand"):
        assert part in told
    assert "money" not in "\n".join(sentences(found, None))


def test_nothing_to_sample_is_said(tmp_path: Path) -> None:
    pairs, images = small_pairs(tmp_path / "pairs", 0, 0), small_images(tmp_path / "images", 1)
    with pytest.raises(ValueError, match="no row to estimate from"):
        estimate(config_of(small_model(tmp_path / "model")), pairs, images, RESOURCES, rows=3)


def test_the_report_tells_what_texts_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_BAD", "100")
    monkeypatch.setenv("SCRIPTED_SECONDS", "0.001")
    pairs, images = small_pairs(tmp_path / "pairs", 20, 3), small_images(tmp_path / "images", 20)
    artifact = generate.make(
        config_of(small_model(tmp_path / "model")), pairs, images, resources=Resources(chunk=CHUNK, tensor_parallel=2)
    ).artifact
    found = generation(artifact, 3600.0)  # one per GPU second
    assert found is not None
    facts, detail = dict(found.facts), artifact.counts.detail
    assert facts["tokens in"] == f"{detail['tokens_in']:,}"
    assert facts["retries"] == str(detail["retries"]) != "0"
    assert {name for name, *_ in found.prompts} == {"caption", "mra_cir/modification"}
    assert dict(found.rejections) == detail["rejections"]
    # Two GPUs, one per second each: the engine's seconds twice, per triplet, times a thousand.
    expected = 2 * float(str(detail["engine_seconds"])) / artifact.counts.written * 1000
    cost = float(facts["cost per thousand triplets"].split(",")[0])
    assert cost == pytest.approx(expected, rel=0.01)
    without = generation(artifact, None)
    assert without is not None
    assert not any("cost" in name for name, _ in without.facts)
    assert generation(images, 1.0) is None
