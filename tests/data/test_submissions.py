"""Submission files: the authors' examples pass, ours pass, and every fault is named before an upload."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.benchmarks import circo, cirr
from data.submissions import BadSubmission, check_submission, write_submission
from tests.shared_data import shared_data


@pytest.fixture(scope="module")
def root() -> Path:
    return shared_data("annotations")


def test_the_authors_examples_pass(root: Path) -> None:
    for name in ("recall", "recall_subset"):
        check_submission(root / f"cirr/demo_files/test1_pred_ranks_{name}.json", cirr.read("test", root))
    for split in ("val", "test"):
        check_submission(root / f"circo/submission_examples/submission_{split}.json", circo.read(split, root))


def test_ours_pass_and_hold_what_the_ranking_says(root: Path, tmp_path: Path) -> None:
    annotations = cirr.read("test", root)
    ranked = {one.query_id: annotations.images for one in annotations.queries}
    recall, subset = write_submission(tmp_path, annotations, ranked)
    found = json.loads(recall.read_text())
    assert (len(found), found["version"], found["metric"]) == (4150, "rc2", "recall")
    assert recall.stat().st_size < 5_000_000
    query = annotations.queries[0]
    best = [image for image in annotations.images if image != query.reference_id]
    assert found[query.query_id] == best[:50]
    members = [image for image in best if image in query.subset]
    assert json.loads(subset.read_text())[query.query_id] == members[:3]
    coco = circo.read("test", root)
    (path,) = write_submission(tmp_path, coco, {one.query_id: [str(i) for i in range(60)] for one in coco.queries})
    assert json.loads(path.read_text())["799"] == list(range(50))


def faulty(annotations: Any, content: dict[str, Any], path: Path) -> str:
    path.write_text(json.dumps(content))
    with pytest.raises(BadSubmission) as caught:
        check_submission(path, annotations)
    return str(caught.value)


def test_faults_of_a_cirr_file_are_named(root: Path, tmp_path: Path) -> None:
    annotations = cirr.read("test", root)
    good = json.loads((root / "cirr/demo_files/test1_pred_ranks_recall.json").read_text())
    first, second, third, fourth, fifth = (one.query_id for one in annotations.queries[:5])
    bad = dict(good) | {"metric": "map"}
    bad[first] = [annotations.queries[0].reference_id, *good[first][1:]]
    bad[second] = good[second][:49]
    bad[third] = [*good[third][:49], good[third][0]]
    bad[fourth] = ["test1/nothing.png", *good[fourth][1:]]
    bad.pop(fifth)
    bad["1"] = good[first]
    told = faulty(annotations, bad, tmp_path / "f.json")
    assert "metric 'map'; want 'rc2', and 'recall' or 'recall_subset'" in told
    assert f"query {first}: its own reference '{annotations.queries[0].reference_id}' is among the answers" in told
    assert f"query {second}: 49 ids, want a list of 50" in told
    assert f"query {third}: an image is ranked twice" in told
    assert f"query {fourth}: 'test1/nothing.png' is not in the gallery" in told
    assert f"1 of 4148 queries are missing, first '{fifth}'" in told
    assert "1 query ids are unknown, first '1'" in told
    subset = json.loads((root / "cirr/demo_files/test1_pred_ranks_recall_subset.json").read_text())
    subset[first] = good[second][:3]
    assert f"query {first}: " in (told := faulty(annotations, subset, tmp_path / "s.json"))
    assert "is no member of its set" in told
    assert "the file has " in faulty(annotations, good | {"12063": [f"{'x' * 10**6}"] * 50}, tmp_path / "l.json")


def test_faults_of_a_circo_file_are_named(root: Path, tmp_path: Path) -> None:
    annotations = circo.read("test", root)
    good = json.loads((root / "circo/submission_examples/submission_test.json").read_text())
    bad = {key: value for key, value in good.items() if int(key) < 790}
    bad["3"] = [f"{good['3'][1]}", *good["3"][1:]]
    bad["4"] = ["000000012.jpg", *good["4"][1:]]
    told = faulty(annotations, bad, tmp_path / "f.json")
    assert "10 of 800 queries are missing, first '790'" in told
    assert "query 3: an image is ranked twice" in told
    assert "query 4: '000000012.jpg' is no id of an image" in told


def test_a_ranking_that_cannot_pass_is_not_written(root: Path, tmp_path: Path) -> None:
    annotations = cirr.read("test", root)
    short = {one.query_id: annotations.images[:20] for one in annotations.queries}
    with pytest.raises(BadSubmission, match=r"cirr test would not pass its server:\n.*want a list of 50"):
        write_submission(tmp_path, annotations, short)
    assert not list(tmp_path.iterdir())
