"""`python -m flows score`: one JSON object on standard output, mistakes on standard error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.__main__ import app
from flows.score import parse_choices
from tests.shared_data import shared_data

KEYS = ["benchmark", "split", "protocol", "queries", "gallery", "metrics", "ties"]


def run(*words: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["score", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_one_json_object(tmp_path: Path) -> None:
    root = shared_data("annotations") / "circo"
    example = root / "submission_examples/submission_val.json"
    code, out, err = run("--benchmark", "circo", "--split", "val", "--root", root, "--predictions", example)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert list(found) == KEYS
    assert (found["queries"], found["protocol"]) == (220, {"reference": "keep", "ties": "official"})
    # The example is random: 2 of 220 main targets are among the first 5.
    assert found["metrics"]["recall@5"] == pytest.approx(100 * 2 / 220)


def test_features_without_coco_list_and_several_choices(tmp_path: Path) -> None:
    root = shared_data("annotations") / "circo"
    generator = np.random.default_rng(0)
    path = tmp_path / "f.npz"
    arrays = {"query": generator.standard_normal((220, 8)), "gallery": generator.standard_normal((90, 8))}
    np.savez(path, gallery_ids=np.arange(90), **arrays)  # type: ignore[arg-type]
    words = ("--benchmark", "circo", "--root", root, "--features", path, "--intervals")
    code, out, err = run(*words, "--protocol", "reference=mask", "--protocol", "ties=pessimistic")
    found = json.loads(out)
    assert code == 0
    assert found["protocol"] == {"reference": "mask", "ties": "pessimistic"}
    assert found["gallery"] == 90
    assert "ground truths are not in the gallery of 90 images and count as misses" in err
    low, high = found["intervals"]["map@5"]
    assert low <= found["metrics"]["map@5"] <= high
    assert run(*words, "--protocol", "reference=mask", "ties=pessimistic") == (code, out, err)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--benchmark", "circo"), "give either --predictions FILE.json or --features FILE.npz"),
        (("--benchmark", "circo", "--predictions", "nowhere.json"), "there is no file nowhere.json"),
        (("--benchmark", "circo", "--predictions", "."), "there is no file .; that is a folder"),
        (("--benchmark", "circo", "--features", __file__), "is no .npz file of plain arrays"),
        (("--benchmark", "cirko", "--features", __file__), "did you mean 'circo'?"),
        (("--benchmark", "circo", "--features", __file__, "--protocol", "refrence=mask"), "did you mean 'reference'?"),
        (("--benchmark", "circo", "--features", __file__, "--protocol", "mask"), "want key=value"),
        (("--benchmark", "circo", "--features", __file__, "--protocol", "text=shared"), "words the query"),
    ],
)
def test_mistakes(words: tuple[str, ...], told: str) -> None:
    code, out, err = run(*words, "--root", shared_data("annotations"))
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert told in err


def test_a_key_is_given_once() -> None:
    with pytest.raises(ValueError, match="'ties' is given twice: 'official' and 'pessimistic'"):
        parse_choices(["ties=official", "ties=pessimistic"])
