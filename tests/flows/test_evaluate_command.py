"""`python -m flows evaluate` over the tiny world in the four official layouts, with a small random encoder."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.benchmarks import circo, cirr, fashioniq, genecis
from data.schemas import PREDICTIONS, SCORES
from data.submissions import check_submission
from flows.evaluate import label, split_choices
from tests.flows.evaluating import FOUR, run
from tests.models.endpoints import good, serving
from tests.models.tiny_blip2 import tiny_checkpoint
from tests.models.tiny_llava import tiny_llava_folder
from tests.tasks.scripted_generate import small_model, use_scripted_backend


@pytest.mark.slow
def test_all_four_from_one_command(world: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "second", seed=1)
    out = tmp_path / "out"
    words = (checkpoint, other, "--benchmark", FOUR, "--root", world, "--out", out, "--protocol", "cirr.reference=keep")
    code, told, wrong = run(tmp_path / "home", *words)
    assert code == 0
    assert list(dict.fromkeys(line.split(":")[0] for line in wrong.splitlines())) == ["images", "answers", "scores"]
    assert "average/recall@1" in told
    assert "queries a tie decides" in told
    assert "cirr val: reference=keep, target=hard, ties=official" in told
    assert "first/composed" in told[told.index("paired tests") :]
    table = pq.read_table(out / "scores.parquet").cast(SCORES).to_pylist()
    methods = {f"{name}/{method}" for name in ("first", "second") for method in
               ("image_only", "text_only", "image_text", "composed")}  # fmt: skip
    assert {row["method"] for row in table} == methods
    expected = {name: {*module.METRICS, *module.AVERAGES} for name, module in
                (("fashioniq", fashioniq), ("genecis", genecis))}  # fmt: skip
    expected["cirr"] = {"recall@1", "recall@5", "recall@10", "recall@50", *(f"subset_recall@{k}" for k in (1, 2, 3)),
                        *cirr.AVERAGES}  # fmt: skip
    found = {name: {row["metric"] for row in table if row["benchmark"] == name} for name in FOUR.split(",")}
    # No query of the tiny world is about a viewpoint: that metric has no value.
    assert found == expected | {"circo": found["circo"]}
    assert found["circo"] < set(circo.METRICS)
    assert all(0 <= row["low"] <= row["value"] + 1e-9 and row["value"] <= row["high"] + 1e-9 <= 101 for row in table)
    protocol = json.loads(next(row["protocol"] for row in table if row["benchmark"] == "cirr"))
    assert protocol == {"reference": "keep", "ties": "official", "target": "hard"}
    content = json.loads((out / "scores.json").read_text())
    assert {row["of"][1] for row in content["paired"]} == {"second/composed"}
    assert all(0 < row["p"] <= 1 for row in content["paired"])
    predictions = pq.read_table(out / "predictions.parquet").cast(PREDICTIONS)
    assert set(predictions["benchmark"].to_pylist()) == set(FOUR.split(","))
    assert r"\begin{tabular}{lrrrrrrrr}" in (out / "scores.tex").read_text()
    assert "| average/recall | " in (out / "scores.md").read_text()


@pytest.mark.slow
def test_the_test_split_gives_files_that_pass(world: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (
        checkpoint,
        "--benchmark",
        "cirr,circo",
        "--root",
        world,
        "--out",
        out,
        "--split",
        "test",
        "--no-baselines",
    )
    code, told, _ = run(tmp_path / "home", *words)
    assert code == 0
    files = sorted((out / "submissions" / "composed").iterdir())
    assert [file.name for file in files] == ["circo.json", "cirr_recall.json", "cirr_recall_subset.json"]
    assert all(str(file) in told for file in files)
    check_submission(files[0], circo.read("test", world))
    check_submission(files[1], cirr.read("test", world))
    check_submission(files[2], cirr.read("test", world))


@pytest.mark.slow
def test_joint_inference_and_cached_features(
    world: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_scripted_backend()
    out, home = tmp_path / "out", tmp_path / "home"
    words = (checkpoint, "--benchmark", "circo,genecis", "--root", world, "--out", out, "--no-baselines")
    joint = ("--target-texts", small_model(tmp_path / "writer"), "--backend", "scripted", "--weight", "0.25")
    code, told, wrong = run(home, *words, *joint)
    queries = len(circo.read("val", world).queries) + len(genecis.read("val", world).queries)
    assert code == 0
    assert f"{queries} requests, 0 known before" in wrong
    assert "joint" in told[told.index("paired tests") :]
    assert told.count(" ran ") == 2
    table = pq.read_table(out / "scores.parquet").cast(SCORES).to_pylist()
    assert {row["method"] for row in table} == {"target_text", "composed", "joint"}
    protocol = json.loads(next(row["protocol"] for row in table if row["method"] == "joint"))
    assert (protocol["weight"], protocol["target_texts"][:7]) == ("0.25", "writer@")
    content = json.loads((out / "scores.json").read_text())
    assert {tuple(row["of"]) for row in content["paired"]} == {("joint", "composed"), ("joint", "target_text")}
    assert content["features"][0]["state"] == "ran"
    page = (out / "answers.html").read_text()
    assert "a thing " in page
    assert page.count("<b>Reference</b>") == min(12, queries - 12) + 12
    # A second time nothing is asked or encoded.
    code, told, wrong = run(home, *words, *joint)
    assert f"0 requests, {queries} known before" in wrong
    assert told.count(" cached ") == 2
    assert pq.read_table(out / "scores.parquet").to_pylist() == table
    # A model that answers nothing of use stops the run, or leaves no rows of its own.
    monkeypatch.setenv("SCRIPTED_BAD", "256")
    other = small_model(tmp_path / "mute")
    (other / "model.safetensors").write_bytes(b"others")
    mute = ("--target-texts", other, "--backend", "scripted")
    code, told, wrong = run(home, *words, *mute)
    assert (code, told) == (1, "")
    assert f"gave no usable target text for {queries} of {queries} queries" in wrong
    code, _, wrong = run(home, *words, *mute, "--allow-missing")
    assert code == 0
    assert re.search(r"12 queries of genecis have none \(.+\), so it has no rows target_text and joint", wrong)
    assert {row["method"] for row in pq.read_table(out / "scores.parquet").to_pylist()} == {"composed"}


@pytest.mark.slow
def test_target_texts_come_from_endpoints(world: Path, checkpoint: Path, tmp_path: Path) -> None:
    with serving(lambda body, before: good('{"target_text": "a thing"}')) as one:
        words = (checkpoint, "--benchmark", "circo", "--root", world, "--out", tmp_path / "out", "--no-baselines")
        asked = ("--backend", "openai", "--target-texts", "some/model@r1", "--examples", 0)
        given = ("--set", f"resources.endpoints={one.url}", "--set", "target_texts.sampling.max_tokens=99")
        code, _, wrong = run(tmp_path / "home", *words, *asked, *given)
    assert (code, len(one.bodies)) == (0, len(circo.read("val", world).queries)), wrong
    assert {(body["model"], body["max_tokens"]) for body in one.bodies} == {("some/model", 99)}
    methods = {row["method"] for row in pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()}
    assert methods == {"composed", "target_text", "joint"}


def test_mistakes_are_shown_before_any_work(world: Path, tmp_path: Path) -> None:
    for words, told in (
        (("cirr,circ",), "did you mean 'circo'?"),
        (("cirr,cirr",), "a benchmark is named twice"),
        (("cirr,circo", "--protocol", "ties=pessimistic"), "names no benchmark; want cirr.ties=pessimistic"),
        (("cirr", "--protocol", "circo.ties=pessimistic"), "is for 'circo', which is not measured"),
        (("cirr", "--protocol", "taget=soft"), "did you mean 'target'?"),
        (("genecis", "--split", "test"), "genecis has no split 'test'"),
        (("cirr", "--split", "test", "--depth", "10"), "50 images per query"),
        (("cirr", "--target-texts", "a/b", "--backend", "openai"), "resources.endpoints=http://localhost:8000/v1"),
        (("cirr", "--target-texts", "a/b", "--backend", "opnai"), "did you mean 'openai'?"),
        (("cirr", "--set", "resources.endpoint=http://one"), "did you mean 'resources.endpoints'?"),
        (("cirr", "--set", "resources.device=cuda"), "resources.device is given twice"),
        (("cirr", "--set", "target_texts.retries=1"), "none are written without --target-texts"),
    ):
        code, out, wrong = run(tmp_path, "tiny_blip2", "--root", world, "--benchmark", *words)
        assert (code, out) == (1, "")
        assert told in wrong
    code, out, wrong = run(tmp_path, "tiny_blip", "--root", "/nowhere", "--benchmark", "cirr")
    assert (code, out, "did you mean 'tiny_blip2'?" in wrong) == (1, "", True)


def test_labels_and_choices() -> None:
    assert label(["a/x", "b/y"]) == {"x": "a/x", "y": "b/y"}
    assert label(["a/x", "b/x"]) == {"a/x": "a/x", "b/x": "b/x"}
    assert split_choices(["cirr.ties=pessimistic", "circo.reference=mask"], "circo", ["cirr", "circo"]) == {
        "reference": "mask"
    }


@pytest.mark.slow
def test_an_mllm_is_measured_with_each_benchmarks_own_words(world: Path, tmp_path: Path) -> None:
    mllm, out = tiny_llava_folder(tmp_path / "mllm"), tmp_path / "out"
    words = (mllm, "--benchmark", FOUR, "--root", world, "--out", out, "--examples", "0")
    code, told, _ = run(tmp_path / "home", *words)
    assert code == 0
    table = pq.read_table(out / "scores.parquet").cast(SCORES).to_pylist()
    assert {row["method"] for row in table} == {"image_only", "text_only", "image_text", "composed"}
    assert {row["benchmark"] for row in table} == set(FOUR.split(","))
    for row in table:
        assert json.loads(row["protocol"])["templates"] == f"instruct_cir/templates/{row['benchmark']}"
    assert "templates=instruct_cir/templates/circo" in told.replace("\n", "")
