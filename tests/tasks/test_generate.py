"""Triplets from pairs: every row accounted for, nothing asked twice, whatever dies."""

import errno
import json
import shutil
import subprocess
import sys
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image
from pydantic import ValidationError

import prompts
from data.artifact import Artifact, write_table
from data.config import Resources
from data.schemas import GENERATIONS, IMAGES, REJECTED, TRIPLETS
from models.backends.vllm import orphans
from models.checkpoints import Located
from tasks.generate import generate
from tasks.ingest import open_image
from tasks.plans.mra_cir import MraCirGenerate
from tests.models.tiny_llava import tiny_llava_folder
from tests.tasks.backends import overlapping, scripted
from tests.tasks.scripted_generate import CHUNK, config_of, resealed, run, small_images, small_model, small_pairs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRIPTED_LOG", str(tmp_path / "log"))


def _asked(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return log.read_text().split() if log.exists() else []


def _tables(artifact: Artifact) -> tuple[pa.Table, pa.Table, pa.Table]:
    return (
        artifact.read(TRIPLETS, "triplets.parquet"),
        artifact.read(GENERATIONS, "generations.parquet"),
        artifact.read(REJECTED, "rejected.parquet"),
    )


def _rows(artifact: Artifact) -> list[list[dict[str, Any]]]:
    return [table.to_pylist() for table in _tables(artifact)]


def test_every_pair_becomes_a_triplet_that_names_its_origin(tmp_path: Path) -> None:
    artifact = run(tmp_path).artifact
    triplets, generations, rejected = _tables(artifact)
    # 40 pairs over 40 images: 40 captions and 40 modifications.
    assert (triplets.num_rows, generations.num_rows, rejected.num_rows) == (40, 80, 0)
    assert artifact.counts.model_dump(include={"read", "kept", "dropped", "written"}) == {
        **{"read": 40, "kept": 40, "dropped": {}, "written": 40}
    }
    for table, key in ((triplets, "triplet_id"), (generations, "request_id")):
        ids = table[key].to_pylist()
        assert ids == sorted(set(ids))
    requests = {row["request_id"]: row for row in generations.to_pylist()}
    for row in triplets.to_pylist():
        origin = row["provenance"]
        first, second, last = (requests[request_id] for request_id in origin["request_ids"])
        assert (first["image_ids"], second["image_ids"]) == ([row["reference_id"]], [row["target_id"]])
        assert last["image_ids"] == [row["reference_id"], row["target_id"]]
        assert first["raw_response"] == f'{{"caption": "{row["reference_caption"]}"}}'
        assert last["raw_response"] == f'{{"modification": "{row["modification"]}"}}'
        assert row["target_caption"] in last["rendered"]
        assert prompts.load(f"styles/{row['style']}").text in last["rendered"]
        assert origin["prompt_digest"] == last["prompt_digest"] == prompts.load("mra_cir/modification").digest
        assert origin["caption_prompt_digest"] == first["prompt_digest"] == prompts.load("caption").digest
        assert (origin["model"], row["recipe"], row["rank"]) == ("model", "mra_cir", 3)
    assert set(triplets["style"].to_pylist()) == {"short", "sentence"}


def test_hugging_face_opens_the_triplets(tmp_path: Path) -> None:
    path = run(tmp_path).artifact.file("triplets.parquet")
    opened = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train")
    assert len(opened) == 40
    assert opened[0]["provenance"]["model"] == "model"
    assert opened[0]["triplet_id"] == opened[0]["pair_id"]


def test_bad_answers_are_retried_and_then_dropped_under_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_BAD", "128")  # half of the answers
    artifact = run(tmp_path, images=60, retries=1).artifact
    triplets, generations, rejected = _tables(artifact)
    counts = artifact.counts
    assert counts.read == 60 == triplets.num_rows + rejected.num_rows
    assert counts.dropped == Counter(rejected["reason"].to_pylist())
    assert {reason.removeprefix("caption_") for reason in counts.dropped} <= {
        *{"empty", "refusal", "cut_off", "unparsable", "missing_field", "repeated"}
    }
    assert any(reason.startswith("caption_") for reason in counts.dropped)
    rows = generations.to_pylist()
    assert {row["attempt"] for row in rows} == {0, 1}
    refused = [row for row in rows if row["rejected"] is not None]
    assert counts.detail["rejections"] == Counter(row["rejected"] for row in refused)
    assert counts.detail["retries"] == sum(row["attempt"] == 1 for row in rows)
    assert counts.detail["asked"] == len(_asked(tmp_path)) == len(set(_asked(tmp_path))) == len(rows)
    raw = {row["raw_response"] for row in refused}
    assert set(rejected["detail"].to_pylist()) <= raw
    used = {request_id for row in triplets.to_pylist() for request_id in row["provenance"]["request_ids"]}
    assert used.isdisjoint(row["request_id"] for row in refused)


def test_another_window_and_more_images_ask_only_for_what_is_new(tmp_path: Path) -> None:
    first = run(tmp_path, images=40, step=3).artifact
    assert (first.counts.detail["asked"], first.counts.detail["reused"]) == (80, 0)
    window = run(tmp_path, images=40, step=5).artifact
    assert (window.counts.detail["asked"], window.counts.detail["reused"]) == (40, 40)
    # Of 90 images' pairs at distance 3 those of i037, i038 and i039 have new targets: 50 + 3 modifications are new.
    grown = run(tmp_path, images=90, step=3).artifact
    assert (grown.counts.detail["asked"], grown.counts.detail["reused"]) == (50 + 53, 40 + 37)
    log = _asked(tmp_path)
    assert len(log) == len(set(log)) == 80 + 40 + 103


@pytest.mark.parametrize("backend", ["scripted", "overlapping"])
def test_a_full_disk_costs_the_chunk_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    whole = 3  # parts of the ledger that find room

    def full(path: Path) -> None:
        nonlocal whole
        if "ledger" in path.parts and path.suffix == ".tmp":
            whole -= 1
            if whole < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("data.artifact.sync", full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path, images=40, backend=backend)
    before = len(_asked(tmp_path))
    artifact = run(tmp_path, images=40, backend=backend).artifact
    stored = artifact.counts.detail["reused"]
    assert isinstance(stored, int)
    assert 0 < stored < before <= stored + CHUNK
    assert artifact.counts.kept == 40
    assert len(_asked(tmp_path)) == 80 + before - stored


def test_nothing_is_opened_when_the_ledger_has_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path).artifact
    monkeypatch.setattr("tasks.generate.load_backend", lambda name: lambda *_: pytest.fail("an engine was started"))
    again = run(tmp_path, retries=1).artifact  # another key: without a bad answer the same requests
    assert again.path != first.path
    assert _rows(again) == _rows(first)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": {"temperature": 0.5}},
        {"sampling": {"seed": 1}},
        {"sampling": {"max_tokens": 9}},
        {"sampling": {"top_p": 0.5}},
        {"engine": {"dtype": "float32"}},
        {"engine": {"context": 99}},
        {"engine": {"image_side": 20}},  # smaller than the pictures
    ],
)
def test_whatever_decides_an_answer_makes_it_another_request(tmp_path: Path, fields: dict[str, Any]) -> None:
    run(tmp_path, images=6)
    assert run(tmp_path, images=6, **fields).artifact.counts.detail["reused"] == 0


def test_whatever_does_not_decide_an_answer_keeps_it(tmp_path: Path) -> None:
    run(tmp_path, images=6, styles=("short",))
    again = run(tmp_path, images=6, styles=("short",), seed=5, engine={"image_side": 24}).artifact
    assert (again.counts.detail["asked"], again.counts.detail["reused"]) == (0, 12)


def test_other_weights_under_the_same_name_are_asked_anew(tmp_path: Path) -> None:
    run(tmp_path, images=6)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    config, pairs, images = _inputs(tmp_path, 6)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    again = generate.make(config, pairs, images, resources=Resources(chunk=CHUNK)).artifact
    assert (again.counts.detail["asked"], again.counts.detail["reused"]) == (12, 0)


def _inputs(tmp_path: Path, images: int) -> tuple[MraCirGenerate, Artifact, Artifact]:
    pictures = small_images(tmp_path / "own" / "images", images)
    pairs = small_pairs(tmp_path / "own" / "pairs", images, 3)
    return config_of(small_model(tmp_path / "model")), pairs, pictures


def test_an_image_that_is_gone_costs_its_pairs_only(tmp_path: Path) -> None:
    config, pairs, images = _inputs(tmp_path, 20)
    (images.path / "images" / "007.png").unlink()
    images = resealed(images)
    artifact = generate.make(config, pairs, images, resources=Resources(chunk=CHUNK)).artifact
    triplets, _, rejected = _tables(artifact)
    # i007 is the reference of one pair and the target of another.
    assert artifact.counts.dropped == {"caption_image_unreadable": 2}
    assert triplets.num_rows == 18
    assert all("unreadable" in detail for detail in rejected["detail"].to_pylist())


def test_a_folder_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    config, pairs, images = _inputs(tmp_path, 20)
    shutil.rmtree(images.path / "images")
    images = resealed(images)
    with pytest.raises(RuntimeError, match="none of 8 images can be read any more, for example 'i000'"):
        generate.make(config, pairs, images, resources=Resources(chunk=4 * CHUNK))


def test_two_pairs_that_come_to_the_same_request_share_it(tmp_path: Path) -> None:
    config, pairs, images = _inputs(tmp_path, 6)
    # Two images of the same pixels, as a source may list them under two names.
    table = images.read(IMAGES, "images.parquet")
    same = table["sha256"].to_pylist()
    same[1], same[4] = same[0], same[3]  # the pairs (0, 3) and (1, 4) show the same
    table = table.set_column(4, table.schema.field("sha256"), pa.array(same))
    write_table(images.path / "images.parquet", table, table.schema)
    images = resealed(images)
    artifact = generate.make(
        config.model_copy(update={"styles": ("short",)}), pairs, images, resources=Resources(chunk=CHUNK)
    ).artifact
    triplets, generations, _ = _tables(artifact)
    assert triplets.num_rows == 6
    # Four different pictures are captioned; (0, 3) = (1, 4) and (3, 0) = (4, 1), beside (2, 5) and (5, 2).
    assert generations.num_rows == 4 + 4 == len(_asked(tmp_path))


def test_images_are_decoded_ahead_by_one_chunk_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, pairs, images = _inputs(tmp_path, 64)
    opened: list[weakref.ref[Image.Image]] = []
    alive: list[int] = []

    def opening(*args: Any) -> Image.Image:
        image = open_image(*args)
        opened.append(weakref.ref(image))
        return image

    def counting(*args: Any) -> Any:
        alive.append(sum(one() is not None for one in opened))
        return answer(*args)

    answer = scripted.Scripted.generate
    monkeypatch.setattr("tasks.asking._QUICK", 0.0)
    monkeypatch.setattr("tasks.pool.open_image", opening)
    monkeypatch.setattr(scripted.Scripted, "generate", counting)
    monkeypatch.setattr("tasks.generate.load_backend", lambda name: scripted.open_generator)
    generate.make(config, pairs, images, resources=Resources(chunk=CHUNK))
    # Of 64 images with one each, then of 64 pairs with two. The first two, drawn before it is known what the engine can
    # do, are of a quarter of the size.
    assert len(alive) == 2 + 8 + 16
    # One chunk is with the engine, the next is being decoded.
    assert CHUNK <= max(alive) <= 2 * CHUNK


@pytest.mark.parametrize(("backend", "quick", "ahead"), [
    (overlapping, 1e9, False), (overlapping, 0.0, True), (scripted, 1e9, True), (scripted, 0.0, True),
])  # fmt: skip
def test_images_are_decoded_while_the_engine_works_unless_they_take_no_time(
    backend: Any, quick: float, ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, pairs, images = _inputs(tmp_path, 64)
    opened: list[int] = []
    ahead_by: list[int] = []

    def opening(*args: Any) -> Image.Image:
        opened.append(1)
        return open_image(*args)

    def working(self: scripted.Scripted, requests: int) -> None:
        """Is busy until the next part is there, unless there is none or nobody is at it; captions only."""
        asked = len(_asked(tmp_path))
        if asked > 64:
            return
        until = time.monotonic() + (30 if ahead else 0)
        while len(opened) <= asked < 64 and time.monotonic() < until:
            time.sleep(0.01)
        ahead_by.append(len(opened) - asked)

    monkeypatch.setattr("tasks.asking._QUICK", quick)
    monkeypatch.setattr("tasks.pool.open_image", opening)
    monkeypatch.setattr(scripted.Scripted, "work", working)
    monkeypatch.setattr("tasks.generate.load_backend", lambda name: backend.open_generator)
    generate.make(config, pairs, images, resources=Resources(chunk=CHUNK))
    before_the_last = [images for images in ahead_by if images or not ahead]
    assert len(before_the_last) >= 8
    assert all((images > 0) == ahead for images in before_the_last)


def test_images_that_are_quick_no_more_are_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, pairs, images = _inputs(tmp_path, 64)
    slow = images.read(IMAGES, "images.parquet")["image_id"][20].as_py()
    opened: list[int] = []
    ahead_by: dict[int, int] = {}  # by how many had been asked for

    def opening(*args: Any) -> Image.Image:
        opened.append(1)
        return open_image(*args)

    def working(self: scripted.Scripted, requests: int) -> None:
        asked = len(_asked(tmp_path))
        until = time.monotonic() + 30
        while len(opened) == asked and 20 < asked < 64 and time.monotonic() < until:
            time.sleep(0.01)
        ahead_by[asked] = len(opened) - asked

    monkeypatch.setattr("tasks.asking._Images.quick", property(lambda some: slow not in some.images))
    monkeypatch.setattr("tasks.pool.open_image", opening)
    monkeypatch.setattr(scripted.Scripted, "work", working)
    monkeypatch.setattr("tasks.generate.load_backend", lambda name: overlapping.open_generator)
    generate.make(config, pairs, images, resources=Resources(chunk=CHUNK))
    assert all(ahead == 0 for asked, ahead in ahead_by.items() if asked <= 20)
    assert all(ahead > 0 for asked, ahead in ahead_by.items() if 20 < asked < 64)
    assert sum(20 < asked < 64 for asked in ahead_by) > 10


def test_an_engine_that_overlaps_is_never_idle_and_has_one_chunk_at_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, pairs, images = _inputs(tmp_path, 64)
    monkeypatch.setenv("SCRIPTED_BAD", "40")
    plain = generate.make(config, pairs, images, resources=Resources(chunk=CHUNK)).artifact
    engine = overlapping.Overlapping(Located("scripted", "r", local=False))
    busy: list[int] = []

    def waiting(requests: int) -> None:
        busy.append(len(engine.begun) - requests)

    monkeypatch.setattr(engine, "work", waiting)
    monkeypatch.setattr("tasks.generate.load_backend", lambda name: lambda *_: engine)
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "other"))
    found = generate.make(config, pairs, images, resources=Resources(chunk=CHUNK)).artifact
    assert engine.most == CHUNK
    # More is there whenever a part is waited for, but for the last of the captions and of the modifications, and those
    # that are tried again after them.
    assert busy.count(0) <= 2 + 2 * config.retries
    assert len(busy) > 60
    for before, after in zip(_tables(plain), _tables(found), strict=True):
        assert after.to_pylist() == before.to_pylist()


def test_a_style_depends_on_seed_and_pair_alone() -> None:
    config = MraCirGenerate(styles=("short", "sentence"))
    drawn = [config.style_of(0, str(pair), 0) for pair in range(400)]
    assert 160 < drawn.count("short") < 240
    assert drawn != [config.style_of(1, str(pair), 0) for pair in range(400)]
    assert drawn != [config.style_of(0, str(pair), 1) for pair in range(400)]


def test_all_faults_of_a_config_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        MraCirGenerate(backend="vlm", caption_prompt="judge", modification_prompt="mra_cir", styles=("shrt",))
    for part in ("no backend 'vlm'", "prompt 'judge' shows 2 images", "no prompt 'mra_cir'", "'styles/shrt'"):
        assert part in str(caught.value)


def test_an_image_missing_from_the_table_is_named(tmp_path: Path) -> None:
    config, pairs, _ = _inputs(tmp_path, 20)
    fewer = small_images(tmp_path / "fewer", 18)
    with pytest.raises(ValueError, match=r"2 images of the pairs are not in .*, for example 'i018'"):
        generate.make(config, pairs, fewer, resources=Resources(chunk=CHUNK))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["scripted", "overlapping"])
def test_killed_again_and_again_it_ends_with_the_same_rows(backend: str) -> None:
    command = [sys.executable, "-m", "tests.tasks.killing", "4", backend]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same_rows"]
    assert found["triplets"] > 100
    assert 0 < found["sent_twice"] <= found["allowed"]  # a kill loses one chunk at the most
    assert (found["ledger_doubles"], found["ledger_lacks"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:max_rollback_tokens:DeprecationWarning")  # xgrammar warns of vLLM's use of it
def test_real_vllm_end_to_end_leaves_no_process(tmp_path: Path) -> None:
    """The random model's answers are none; every row ends under a reason and with its raw text."""
    model = tiny_llava_folder(tmp_path / "random_llava")
    pairs, images = small_pairs(tmp_path / "pairs", 6, 2), small_images(tmp_path / "images", 6)
    for structured in (False, True):
        config = MraCirGenerate.model_validate(
            {
                **{"model": str(model), "retries": 1},
                "sampling": {"max_tokens": 100, "temperature": 1.0},
                "engine": {"structured": structured, "image_side": 96},
            }
        )
        artifact = generate.make(config, pairs, images, resources=Resources(chunk=4)).artifact
        triplets, generations, rejected = _tables(artifact)
        assert triplets.num_rows + rejected.num_rows == 6
        assert pc.all(pc.greater(generations["tokens_in"], 36)).as_py()
        reasons = {reason.removeprefix("caption_") for reason in artifact.counts.dropped}
        assert reasons <= {"cut_off", "unparsable", "missing_field", "repeated", "empty"}
        if structured:  # what is not cut off is an object
            assert not reasons & {"unparsable", "missing_field"}
    assert not orphans()
