"""`python -m flows evaluate` where something is wrong with the benchmarks' files: told before any work, or scored."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.benchmarks import circo, cirr, fashioniq, genecis
from tests.flows.evaluating import FOUR, run

LOADERS: dict[str, ModuleType] = {"cirr": cirr, "circo": circo, "fashioniq": fashioniq, "genecis": genecis}
ANNOTATIONS = {
    "cirr": "captions/cap.rc2.val.json",
    "circo": "annotations/val.json",
    "fashioniq": "captions/cap.dress.val.json",
    "genecis": "genecis/focus_attribute.json",
}


@pytest.fixture
def spoilt(world: Path, tmp_path: Path) -> Path:
    """A copy of the layouts, for a test to spoil."""
    return Path(shutil.copytree(world, tmp_path / "spoilt"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def delete_an_image(root: Path, name: str) -> str:
    """Delete the first query's reference; returns what the message says."""
    reference = LOADERS[name].read("val", root).queries[0].reference_id
    stem = reference.zfill(12) if name == "circo" else reference.partition("@")[0]
    (file,) = (root / name).rglob(f"{stem}.*")
    file.unlink()
    return rf"{name} val: 1 images are missing or unreadable, .*\n  {reference}: unreadable: no file \S*{stem}"


def cut_the_json(root: Path, name: str) -> str:
    path = root / name / ANNOTATIONS[name]
    path.write_text(path.read_text()[:-40])
    return rf"{path} is not JSON: line \d+, column \d+: .+; fetch the file again"


def empty_the_folder(root: Path, name: str) -> str:
    """Leave something else in the place of a benchmark."""
    shutil.rmtree(root / name)
    (root / "pictures").mkdir(exist_ok=True)
    file = ANNOTATIONS[name].split("/")[-1]
    return rf"{root} holds pictures/; expected \S*{file}.* in it or in one of {name}/.*Put .*{file}.* into {root} \("


@pytest.mark.parametrize("harm", [delete_an_image, cut_the_json, empty_the_folder])
def test_what_is_wrong_with_any_benchmark_is_told_at_once(
    harm: Callable[[Path, str], str], spoilt: Path, tmp_path: Path
) -> None:
    told = [harm(spoilt, name) for name in LOADERS]
    words = ("tiny_blip2", "--benchmark", FOUR, "--root", spoilt, "--out", tmp_path / "out")
    code, printed, wrong = run(tmp_path / "home", *words)
    assert (code, printed) == (1, "")
    problems = wrong.split("error: ")[1:]
    assert [bool(re.match(one, problem)) for one, problem in zip(told, problems, strict=True)] == [True] * 4, wrong
    assert not (tmp_path / "out").exists()


def test_no_image_is_opened_before_all_annotations_are_read(
    spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    original = Image.open

    def watched(source: Any, *rest: Any, **named: Any) -> Image.Image:
        opened.append(source)
        return original(source, *rest, **named)

    monkeypatch.setattr(Image, "open", watched)
    lost = delete_an_image(spoilt, "cirr")
    whole = (spoilt / "genecis" / ANNOTATIONS["genecis"]).read_text()
    mistake = cut_the_json(spoilt, "genecis")
    words = ("tiny_blip2", "--root", spoilt, "--out", tmp_path / "out", "--benchmark", "cirr,genecis")
    code, _, wrong = run(tmp_path / "home", *words)
    assert (code, opened) == (1, [])
    assert re.search(mistake, wrong)
    assert "missing" not in wrong
    # Without the mistake the images are looked at.
    (spoilt / "genecis" / ANNOTATIONS["genecis"]).write_text(whole)
    code, _, wrong = run(tmp_path / "home", *words)
    assert code == 1
    assert opened
    assert re.search(lost, wrong)


@pytest.mark.slow
def test_a_deleted_image_can_be_done_without(spoilt: Path, checkpoint: Path, tmp_path: Path) -> None:
    delete_an_image(spoilt, "cirr")
    out = tmp_path / "out"
    words = (checkpoint, "--benchmark", "cirr", "--root", spoilt, "--out", out, "--no-baselines", "--allow-missing")
    code, _, _ = run(tmp_path / "home", *words)
    assert code == 0
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    lost = json.loads(rows[0]["protocol"])
    assert int(lost["lost_queries"]) >= 1
    assert lost["lost_gallery_images"] == "1"
    assert rows[0]["queries"] + int(lost["lost_queries"]) == len(cirr.read("val", spoilt).queries)


def answers(out: Path) -> dict[tuple[str, str, str], list[str]]:
    """Ranked image ids, by method, benchmark and query."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in pq.read_table(out / "predictions.parquet").to_pylist():
        found.setdefault((row["method"], row["benchmark"], row["query_id"]), []).append(row["image_id"])
    return found


@pytest.mark.slow
def test_an_empty_caption_is_asked_like_any_other(world: Path, spoilt: Path, checkpoint: Path, tmp_path: Path) -> None:
    edits = (("cirr", "caption", " "), ("circo", "relative_caption", ""), ("fashioniq", "captions", ["", "is grey"]))
    for name, key, empty in edits:
        edit(spoilt / name / ANNOTATIONS[name], lambda entries, key=key, empty=empty: entries[0].update({key: empty}))
    runs = {}
    for root in (world, spoilt):
        out = tmp_path / root.name
        words = (checkpoint, "--benchmark", "cirr,circo,fashioniq", "--root", root, "--out", out, "--examples", 99)
        assert run(tmp_path / "home", *words)[0] == 0
        runs[root] = out
    plain, found = answers(runs[world]), answers(runs[spoilt])
    asked = {("cirr", "0"), ("circo", "0"), ("fashioniq", "dress/0")}
    assert {key: len(ranked) for key, ranked in found.items()} == {key: len(ranked) for key, ranked in plain.items()}
    changed = {key for key, ranked in found.items() if ranked != plain[key]}
    assert {key[1:] for key in changed if key[0] == "text_only"} == asked
    assert {key[1:] for key in changed} == asked
    assert not [key for key in changed if key[0] == "image_only"]
    rows = pq.read_table(runs[spoilt] / "scores.parquet").to_pylist()
    assert "lost_queries" not in {key for row in rows for key in json.loads(row["protocol"])}
    for name in ("cirr", "circo"):
        queries = len(LOADERS[name].read("val", world).queries)
        assert {row["queries"] for row in rows if row["benchmark"] == name and "/" not in row["metric"]} == {queries}
    # FashionIQ's is joined with its neighbour.
    assert " and is grey" in (runs[spoilt] / "answers.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("ties", "counted"), [("official", 0), ("pessimistic", 1)])
def test_a_target_among_its_own_rivals_ties_with_itself(
    ties: str, counted: int, spoilt: Path, checkpoint: Path, tmp_path: Path
) -> None:
    for task in genecis.TASKS:
        path = spoilt / "genecis" / "genecis" / f"{task}.json"
        edit(path, lambda entries: [one["gallery"].__setitem__(4, one["target"]) for one in entries])
    out = tmp_path / "out"
    words = (checkpoint, "--benchmark", "genecis", "--root", spoilt, "--out", out, "--no-baselines", "--examples", 0)
    code, _, wrong = run(tmp_path / "home", *words, "--protocol", f"ties={ties}")
    assert code == 0, wrong
    ranks: dict[str, list[int]] = {task: [] for task in genecis.TASKS}
    tied = 0
    ranked = answers(out)
    for query in genecis.read("val", spoilt).queries:
        found = ranked["composed", "genecis", query.query_id]
        places = [rank for rank, image in enumerate(found, 1) if image == query.targets[0]]
        assert (len(found), places) == (len(query.candidates), [places[0], places[0] + 1])
        ranks[query.tags[0]].append(places[counted])
        # Its copy decides recall@k where one of them is the k-th and the other not.
        tied += places[0] in genecis.CUTS
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    scores = {row["metric"]: row["value"] for row in rows}
    for task, mine in ranks.items():
        for k in genecis.CUTS:
            assert scores[f"{task}/recall@{k}"] == pytest.approx(100 * sum(rank <= k for rank in mine) / len(mine))
    assert json.loads((out / "scores.json").read_text())["ties"] == {"genecis/composed": tied}
    assert tied > 0
