"""`python -m flows search` over pictures of the tiny world, by the checkpoint that comes with the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from data.images import load_rgb
from data.tiny_drawing import png
from data.tiny_random_edits import pool
from flows.__main__ import app
from models.encoders import load_encoder
from tests.models.reference import score

ROOT = Path(__file__).resolve().parents[2]
TEXT = "make it red"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures, a copy of one of them, and a file that is cut off."""
    folder = tmp_path_factory.mktemp("gallery")
    for place, scene in enumerate(pool(10, 3)):
        (folder / f"s{place}.png").write_bytes(png(scene))
    (folder / "z-copy.png").write_bytes((folder / "s0.png").read_bytes())
    (folder / "z-cut.png").write_bytes((folder / "s1.png").read_bytes()[:90])
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def run(monkeypatch: pytest.MonkeyPatch, home: Path, *words: Any, **options: Any) -> tuple[int, str, str]:
    monkeypatch.setenv("CIRQUE_HOME", str(home))
    given = {"checkpoint": "tiny_blip2", "text": TEXT, **options}
    flags = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["search", *flags, "--device", "cpu", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_images_come_in_the_order_of_their_scores(world: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, told, noted = run(monkeypatch, home, "--json", gallery=world, image=world / "s3.png", k=50)
    assert code == 0
    answer = json.loads(told)
    found = answer["results"]
    assert (answer["images"], answer["excluded"], answer["features"]) == (10, "s3.png", "ran")
    assert [hit["rank"] for hit in found] == list(range(1, 10))  # 50 were asked for, 9 are there
    assert [Path(hit["path"]).name for hit in found] == [hit["image_id"] for hit in found]
    assert "2 of 12 files are not used: duplicate 1, truncated 1" in noted
    assert "s3.png is the reference and is not ranked" in noted
    encoder = load_encoder("tiny_blip2", "cpu")
    names = [f"s{place}.png" for place in range(10) if place != 3]
    with torch.inference_mode():
        images = encoder.image_tokens(encoder.vision([load_rgb(world / name) for name in names])).tokens.half()
        query = encoder.query_tokens(encoder.vision([load_rgb(world / "s3.png")]), [TEXT]).tokens
    scores = np.array([score(query[0].numpy(), image.numpy()) for image in images])
    # The order may differ where two images score alike to within what half precision keeps.
    assert [hit["score"] for hit in found] == pytest.approx(np.sort(scores)[::-1], abs=1e-3)
    assert {hit["image_id"]: hit["score"] for hit in found} == pytest.approx(
        dict(zip(names, scores, strict=True)), abs=1e-3
    )


def test_a_second_search_finds_the_features_and_may_keep_the_reference(
    world: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "the same picture.png"
    elsewhere.write_bytes((world / "s3.png").read_bytes())
    first = run(monkeypatch, home, "--json", gallery=world, image=elsewhere, k=3)
    assert json.loads(first[1])["excluded"] == "s3.png"  # by its bytes, not by its name
    code, told, noted = run(monkeypatch, home, "--json", "--keep-reference", gallery=world, image=elsewhere, k=10)
    answer = json.loads(told)
    assert (code, answer["features"], answer["excluded"]) == (0, "cached", None)
    assert "s3.png" in {hit["image_id"] for hit in answer["results"]}
    assert "is the reference" not in noted


def test_the_table_says_what_the_object_does(world: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(run(monkeypatch, home, "--json", gallery=world, image=world / "s1.png", k=2)[1])["results"]
    told = run(monkeypatch, home, gallery=world, image=world / "s1.png", k=2)[1].split()
    assert told[:3] == TEXT.split()
    for hit in found:
        assert [str(hit["rank"]), f"{hit['score']:.4f}", hit["image_id"]] == told[told.index(hit["image_id"]) - 2 :][:3]


def test_a_text_that_is_cut_is_noted(world: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, noted = run(monkeypatch, home, gallery=world, image=world / "s1.png", text="make it red " * 40)
    assert code == 0
    assert "tokens that the model reads; its end is ignored" in noted


def test_what_is_wrong_is_said_in_a_line(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "a.png").write_bytes((world / "s1.png").read_bytes())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    good = {"gallery": world, "image": world / "s1.png"}
    cases = [
        ({"text": " "}, "--text is empty; say what is to be changed"),
        ({"image": world / "none.png"}, "none.png cannot be used: unreadable"),
        ({"image": tmp_path / "broken" / "a.png"}, "a.png cannot be used: not_an_image"),
        ({"gallery": tmp_path / "none"}, "no folder at"),
        ({"gallery": tmp_path / "empty"}, "there is no file in"),
        ({"gallery": tmp_path / "broken"}, "none of the 1 files in"),
        ({"gallery": tmp_path / "lone"}, "the gallery holds no image but the reference"),
        ({"checkpoint": "tiny_blip"}, "did you mean 'tiny_blip2'"),
    ]
    for options, message in cases:
        code, told, wrong = run(monkeypatch, tmp_path / "home", **(good | options))
        assert (code, told) == (1, ""), options
        assert message in wrong
        assert wrong.startswith("error: ")
        assert wrong.count("\n") == 1


def test_a_hub_that_cannot_be_reached_is_said_in_a_line(world: Path, home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(home / "hub"), "CIRQUE_HOME": str(home)}
    words = ["--checkpoint", "nobody/nothing", "--gallery", world, "--image", world / "s3.png", "--text", TEXT]
    command = [sys.executable, "-m", "flows", "search", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: Hugging Face at http://127.0.0.1:9 cannot be reached ([Errno 111]")
