"""The studies: what their tables compare, and which windows they lay beside each other."""

import importlib
from pathlib import Path
from typing import Any

import pytest

import flows.study
from data.windows import Window
from flows.instruct_cir_ablations import NOTES, InstructCirAblations
from flows.instruct_cir_ablations import variants as rows_of_instruct_cir
from flows.mra_cir_ablations import EDITS, RECIPE, MraCirAblations, by_kind
from flows.mra_cir_ablations import variants as parts
from flows.mra_cir_noise import MraCirNoise
from flows.mra_cir_windows import MraCirWindows, swept
from flows.mvft_ji import MvftJi
from flows.mvft_ji_ablations import MvftJiAblations, OtherWriter, variants
from flows.overrides import configure, field_values
from flows.recipe import load_recipe
from tasks.runs import load_run
from tasks.stage import Stage
from tasks.store import home
from tests.flows import stand_ins
from tests.tasks.scripted_generate import small_model, use_scripted_backend
from tests.tasks.small_artifacts import sealed


def test_the_table_of_mvft_ji_has_all_six_ablations() -> None:
    without, with_other = (variants(MvftJiAblations(other=OtherWriter(model=name))) for name in (None, "weaker"))
    assert [one.label for one in without] == [one.label for one in with_other]
    assert len(without) == 8  # whole, six ablations, and one that the paper does not have
    assert [one.label for one in without if one.source is None] == ["another MLLM"]
    assert "set other.model" in next(one.note for one in without if one.source is None)
    assert all(one.source is not None for one in with_other)
    assert {one.method for one in without if one.source == "full"} == {"joint", "composed", "target_text"}
    trained = variants(configure(MvftJiAblations, ["train.text_targets=trained"]))
    assert trained[2].method == "target_text_trained"  # then the trained network reads texts too
    assert without[0].paper == {"FashionIQ R@10": 34.84, "CIRCO mAP@5": 21.69, "CIRR R@1": 39.30}


def test_the_texts_of_queries_come_from_the_model_that_writes_the_data() -> None:
    config = configure(MvftJi, ["generate.sampling.temperature=0.5", "evaluate.benchmarks=tiny_multi"])
    assert config.train.losses == ("composed_text", "caption_image")
    asked = config.query_texts.config(config.generate, config.evaluate)
    assert asked.benchmarks == ("tiny_multi",)
    assert (asked.writer.model, asked.writer.prompt) == ("tiny_llava", "mvft_ji/target_text")
    assert asked.writer.sampling.temperature == 0.5
    other = configure(MvftJi, ["query_texts.prompt=mvft_ji/target_text_b", "query_texts.model=elsewhere"])
    asked = other.query_texts.config(other.generate, other.evaluate)
    assert (asked.writer.model, asked.writer.prompt) == ("elsewhere", "mvft_ji/target_text_b")


def test_windows_are_swept_by_rank_and_by_percentile(tmp_path: Path) -> None:
    ranking = sealed(tmp_path / "rank", "rank", 4000, config={"depth": 100})
    found = swept(MraCirWindows(by=("percentile", "rank")), ranking)
    assert [str(window) for _, window in found[:2]] == ["ranks 51 to 60", "ranks 1 to 1"]
    # Ranks 51 to 60 of 10,000 images are the percentiles above 0.5 up to 0.6: of 3,999 candidates the ranks 20 to 23.
    assert found[5] == ("percentiles 0.5 to 0.6", Window(by="percentile", low=0.5, high=0.6))
    assert found[5][1].ranks(3999) == range(20, 24)
    with pytest.raises(ValueError, match="hold no rank"):
        found[6][1].ranks(3999)  # the nearest of 10,000


def test_the_parts_of_mra_cir_are_rows_beside_what_needs_no_training() -> None:
    found = parts(MraCirAblations(), {}, "why not")
    assert [one.label for one in found] == PARTS
    assert all(one.method == "composed" for one in found[:7])
    assert {one.label: one.note for one in found if one.source is None} == dict.fromkeys(EDITS, "why not")


def test_edits_are_balanced_where_their_kind_is_known(tmp_path: Path) -> None:
    photos = configure(MraCirAblations, ["ingest.source=folder", "ingest.path=photos"])
    picked, why = by_kind(photos, sealed(tmp_path / "generate", "generate"))
    assert (picked, why) == ({}, "the kind of a change is known of ingest.source=tiny_world only")
    names = [RECIPE.planned_names(config) for config in (photos, MraCirAblations())]
    assert ["pick" in some for some in names] == [False, True]


PARTS = [
    *("full", "pooled", "slots", "hard negatives", "no captions", "balanced edits", "natural edits"),
    *("image_only", "text_only", "image_text"),
]


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *assignments: str) -> tuple[list[str], str]:
    """Run a study without Prefect, with a scripted model and stand-ins for the networks: its stages, and its table."""
    use_scripted_backend()
    monkeypatch.setattr(Stage, "__call__", lambda self, *args, **more: self.make(*args, **more).artifact)
    monkeypatch.setattr("flows.recipe.show_run", lambda *told: None)
    flow = importlib.import_module(f"flows.{name}")
    for stage in ("encode", "rank", "mine", "train", "query_texts", "evaluate"):
        for module in (flow, flows.study):
            if hasattr(module, stage):
                monkeypatch.setattr(module, stage, getattr(stand_ins, stage))
    writer = [f"backend=scripted model={small_model(folder / 'model')}".split()]
    given = ["ingest.images=24", *(f"generate.{one}" for one in writer[0]), *assignments]
    record = load_run(flow.RECIPE.flow.fn(configure(flow.RECIPE.config, given)))
    assert {row.state for row in record.stages} <= {"ran", "cached"}
    artifact = next(row.artifact for row in record.stages if row.stage == "compare")
    assert artifact is not None
    return [row.stage for row in record.stages], (home() / artifact / "table.md").read_text()


def labels(table: str) -> list[str]:
    lines = [line for line in table.split("\n\n")[1].splitlines() if line.startswith("| ")]
    return [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]]


@pytest.mark.usefixtures("store")
def test_mvft_ji_is_trained_five_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages, table = run("mvft_ji_ablations", tmp_path, monkeypatch)
    assert labels(table) == [one.label for one in variants(MvftJiAblations())]
    assert stages.count("train") == 5
    assert stages.count("generate") == 3  # the first, natural edits, the other prompts
    assert "| another MLLM | not run | not run | 31.88 | 18.18 | 37.47 | set other.model to a checkpoint |" in table
    other = small_model(tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"other weights")
    stages, table = run("mvft_ji_ablations", tmp_path, monkeypatch, f"other.model={other}")
    assert stages.count("train") == 6
    assert "not run" not in table


@pytest.mark.usefixtures("store")
def test_every_window_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = ["ranks=[[5,6],[1,1]]", "by=rank,percentile,score", "pool=50", "sample.low=5", "sample.high=6"]
    stages, table = run("mra_cir_windows", tmp_path, monkeypatch, *narrow)
    # Percentiles above 8 up to 12 of 23 candidates are the rank 2; up to 2 they are none.
    assert labels(table)[:4] == ["ranks 5 to 6", "ranks 1 to 1", "percentiles 8 to 12", "percentiles 0 to 2"]
    assert "| percentiles 0 to 2 | not run | not run | percentiles 0 to 2 of a pool of 23" in table
    assert labels(table)[4].startswith("scores 0.94 to 0.95 (ranks 5 to 6)")
    assert stages.count("train") == 5


@pytest.mark.usefixtures("store")
def test_the_parts_of_mra_cir_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = ["sample.low=5", "sample.high=6", "edit_share=0.5"]
    stages, table = run("mra_cir_ablations", tmp_path, monkeypatch, *narrow)
    assert labels(table) == PARTS
    assert stages.count("train") == 5
    assert stages.count("generate") == 2
    # The scripted model does not speak the tiny world's language.
    assert "| balanced edits | not run | not run | not run |" in table
    assert "0 triplets are fewer than train.batch_size=64; of 24 the kind of change is known of 0" in table
    monkeypatch.setattr("tasks.triplet_sets.true_kinds", scripted_kinds)
    stages, table = run("mra_cir_ablations", tmp_path, monkeypatch, *narrow, "train.batch_size=12", "sample.seed=1")
    assert labels(table) == PARTS
    assert stages.count("train") == 7
    assert "12 triplets, 6 to 6 of each kind of change" in table
    assert "difference to 'full' and its p-value, but of 'balanced edits' to 'natural edits'" in table


def scripted_kinds(row: dict[str, Any], seed: int) -> frozenset[str]:
    return frozenset({"colour" if int(row["reference_id"]) % 3 else "size"})


@pytest.mark.usefixtures("store")
def test_wrong_modifications_are_judged_and_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = [f"filter.judge.{one}" for one in ("backend=scripted", f"model={small_model(tmp_path / 'model')}")]
    monkeypatch.setenv("SCRIPTED_CHOICES", "1")
    # With two texts of each pair, the judge keeps one and drops the other of some.
    narrow = ["sample.low=5", "sample.high=6", "shares=0.25,0.5", "generate.texts_per_pair=2", *judge]
    stages, table = run("mra_cir_noise", tmp_path, monkeypatch, *narrow)
    assert labels(table) == [
        *("as written", "25 % wrong", "50 % wrong", "50 % wrong, judged", "50 % wrong, judged, rewritten"),
        "as written, judged",
    ]
    assert stages.count("train") == 6
    assert stages.count("renew") == 1
    assert "% right | note |" in table
    with pytest.raises(ValueError, match=r"known of ingest.source=tiny_world only, not of 'folder'"):
        configure(MraCirNoise, ["ingest.source=folder", "ingest.path=photos"])


@pytest.mark.usefixtures("store")
def test_sources_are_trained_on_alone_and_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mvft = [f"mvft.{one}" for one in ("backend=scripted", f"model={small_model(tmp_path / 'model')}")]
    stages, table = run("several_sources", tmp_path, monkeypatch, "sample.low=5", "sample.high=6", *mvft)
    assert labels(table)[:4] == ["MRA-CIR", "MVFT-JI", "both", "both, hard negatives"]
    assert labels(table)[4:] == [f"{one}: joint" for one in labels(table)[:4]]
    assert "| MRA-CIR |" in table
    assert "24 triplets, 7 steps" in table
    assert "48 triplets, 7 steps" in table
    assert stages.count("train") == 4


def test_the_table_of_instruct_cir_says_what_was_not_run() -> None:
    whole = rows_of_instruct_cir(InstructCirAblations())
    assert [one.label for one in whole] == [*NOTES, "25% of the triplets", "50% of the triplets"]
    assert all(one.source is not None for one in whole)
    assert whole[0].paper == {"CIRR R@1": 34.63, "FashionIQ R@10": 29.46}
    less = rows_of_instruct_cir(
        configure(InstructCirAblations, ["pairs.on=false", "align.hard_negatives=0", "sizes=0.1"])
    )
    assert {one.label: one.note for one in less if one.source is None} == {
        **dict.fromkeys(
            [f"stage 1 {what}" for what in ("alone, other images", "alone, both", "on other images", "on both")],
            "needs pairs.on=true",
        ),
        "no wrong captions": "align.hard_negatives is 0 already",
    }


@pytest.mark.usefixtures("store")
def test_the_parts_of_instruct_cir_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = f"backend=scripted model={small_model(tmp_path / 'model')}".split()
    pairs = ["pairs.ingest.images=20", *(f"pairs.caption.{one}" for one in writer)]
    stages, table = run("instruct_cir_ablations", tmp_path, monkeypatch, *pairs)
    assert labels(table) == [one.label for one in rows_of_instruct_cir(InstructCirAblations())]
    assert stages.count("evaluate") == 14  # fifteen rows, of which the first stage alone is in the first evaluation
    assert stages.count("some") == 2
    assert "not run" not in table


@pytest.mark.parametrize(
    "name", ["mvft_ji", "mvft_ji_ablations", "mra_cir_windows", "mra_cir_ablations", "mra_cir_noise", "several_sources"]
)
def test_every_field_can_be_given_as_it_is_listed(name: str) -> None:
    kind = load_recipe(name).config
    assert configure(kind, list(field_values(kind()))) == kind()
