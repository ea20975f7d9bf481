"""What each recipe asks, in which words, and what becomes of the answers."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

import prompts
from data.artifact import Artifact, write_table
from data.config import Resources
from data.schemas import GENERATIONS, IMAGES, REJECTED, TRIPLETS
from data.tiny_edits import KINDS
from models.backends import Request
from tasks.generate import generate
from tasks.plans import ANY, EDIT_TYPES, GenerateConfig
from tasks.plans.instruct_cir import InstructCirGenerate
from tasks.plans.mra_cir import MraCirGenerate
from tasks.plans.mvft_ji import MvftJiGenerate
from tests.tasks.backends import scripted
from tests.tasks.scripted_generate import CHUNK, resealed, small_images, small_model, small_pairs, use_scripted_backend


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    use_scripted_backend()


def _fields(tmp_path: Path) -> dict[str, Any]:
    return {"backend": "scripted", "model": str(small_model(tmp_path / "model"))}


def _captioned(images: Artifact, every: int = 1) -> Artifact:
    """Give every so many images a caption."""
    table = images.read(IMAGES, "images.parquet")
    captions = [f"a thing {place}" if place % every == 0 else None for place in range(table.num_rows)]
    table = table.set_column(6, table.schema.field("caption"), pa.array(captions, pa.string()))
    write_table(images.path / "images.parquet", table, IMAGES)
    return resealed(images)


def _make(config: GenerateConfig, pairs: Artifact | None, images: Artifact) -> tuple[Artifact, list[dict[str, Any]]]:
    artifact = generate.make(config, pairs, images, resources=Resources(chunk=CHUNK)).artifact
    rows = artifact.read(TRIPLETS, "triplets.parquet").to_pylist()
    ids = [row["triplet_id"] for row in rows]
    assert ids == sorted(set(ids))
    return artifact, rows


def _answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], dict[str, str]]) -> None:
    def texts(self: scripted.Scripted, request: Request) -> Any:
        return scripted.Response(request.request_id, json.dumps(answer(request)), "stop", 10, 5)

    monkeypatch.setattr(scripted.Scripted, "answer", texts)
    monkeypatch.setattr("tasks.generate.load_backend", lambda name: scripted.open_generator)


def test_mvft_ji_makes_up_a_change_and_says_what_comes_of_it(tmp_path: Path) -> None:
    images = small_images(tmp_path / "images", 30)
    artifact, rows = _make(MvftJiGenerate(**_fields(tmp_path), texts_per_pair=1), None, images)
    assert artifact.counts.model_dump(include={"read", "kept", "written"}) == {"read": 30, "kept": 30, "written": 30}
    requests = {row["request_id"]: row for row in artifact.read(GENERATIONS, "generations.parquet").to_pylist()}
    assert len(requests) == 3 * 30
    for row in rows:
        caption, change, described = (requests[one] for one in row["provenance"]["request_ids"])
        assert (row["target_id"], row["pair_id"], row["recipe"]) == (None, None, "mvft_ji")
        assert {one["image_ids"][0] for one in (caption, change, described)} == {row["reference_id"]}
        assert change["rendered"] == prompts.load("mvft_ji/modification").render(
            style=prompts.load(f"styles/{row['style']}").text, edit_type=row["edit_type"]
        )
        assert described["rendered"] == prompts.load("mvft_ji/target_text").render(modification=row["modification"])
        assert json.loads(described["raw_response"]) == {"target_text": row["target_text"]}
        assert json.loads(caption["raw_response"]) == {"caption": row["reference_caption"]}
    assert {row["reference_id"] for row in rows} == {f"i{place:03}" for place in range(30)}
    assert set(artifact.counts.detail["prompts"]) == {"caption", "mvft_ji/modification", "mvft_ji/target_text"}


def test_only_modifications_are_drawn_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, ...], set[float]] = {}

    def answer(request: Request) -> dict[str, str]:
        seen.setdefault(request.answer, set()).add(request.temperature)
        return {name: f"{name} {request.request_id[:6]}" for name in request.answer}

    _answering(monkeypatch, answer)
    images = small_images(tmp_path / "images", 3)
    _make(MvftJiGenerate(**_fields(tmp_path), modification_temperature=0.9), None, images)
    assert seen == {("caption",): {0.0}, ("modification",): {0.9}, ("target_text",): {0.0}}
    seen.clear()
    # It is the least: what the sampling says for all counts where it is more.
    sampling = {"temperature": 0.5}
    _make(MvftJiGenerate(**_fields(tmp_path), modification_temperature=0.2, sampling=sampling), None, images)
    assert seen == {("caption",): {0.5}, ("modification",): {0.5}, ("target_text",): {0.5}}


def test_instruct_cir_shows_no_image_and_keeps_the_caption_as_a_negative(tmp_path: Path) -> None:
    images = _captioned(small_images(tmp_path / "images", 12), every=2)
    shutil.rmtree(images.path / "images")  # no image is needed
    images = resealed(images)
    artifact, rows = _make(InstructCirGenerate(**_fields(tmp_path)), None, images)
    assert artifact.counts.dropped == {"no_caption": 6}
    assert artifact.read(REJECTED, "rejected.parquet")["reason"].to_pylist() == ["no_caption"] * 6
    requests = {row["request_id"]: row for row in artifact.read(GENERATIONS, "generations.parquet").to_pylist()}
    for row in rows:
        (only,) = (requests[one] for one in row["provenance"]["request_ids"])
        assert only["image_ids"] == []
        assert row["reference_caption"] == f"a thing {int(row['reference_id'][1:])}"
        assert row["negative_texts"] == [row["reference_caption"]]
        assert only["rendered"] == prompts.load("instruct_cir/instruction").render(
            caption=row["reference_caption"], edit_type=row["edit_type"]
        )
        answer = json.loads(only["raw_response"])
        assert (row["modification"], row["target_text"]) == (answer["instruction"], answer["modified_caption"])


def test_instruct_cir_has_missing_captions_written_if_asked_to(tmp_path: Path) -> None:
    images = _captioned(small_images(tmp_path / "images", 12), every=2)
    config = InstructCirGenerate(**_fields(tmp_path), caption_prompt="caption")
    artifact, rows = _make(config, None, images)
    assert (artifact.counts.kept, artifact.counts.detail["asked"]) == (12, 6 + 12)
    assert sorted(len(row["provenance"]["request_ids"]) for row in rows) == [1] * 6 + [2] * 6


def test_a_modified_caption_that_says_what_the_caption_says_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = _captioned(small_images(tmp_path / "images", 6))

    def answer(request: Request) -> dict[str, str]:
        number = int(request.prompt.rsplit(" ", 1)[1])
        same = number % 2 == 0 or request.temperature == 0
        return {"instruction": "add dots", "modified_caption": f"A thing {number}." if same else "a dotted thing"}

    _answering(monkeypatch, answer)
    artifact, rows = _make(InstructCirGenerate(**_fields(tmp_path), retries=1), None, images)
    # The odd ones do better at the second attempt, which is drawn; the even ones never do.
    assert artifact.counts.dropped == {"unchanged": 3}
    assert [row["target_text"] for row in rows] == ["a dotted thing"] * 3
    assert artifact.counts.detail["rejections"] == {"unchanged": 6 + 3}
    assert artifact.counts.detail["retries"] == 6
    generations = artifact.read(GENERATIONS, "generations.parquet")
    assert Counter(generations["rejected"].to_pylist()) == {"unchanged": 9, None: 3}


def test_several_texts_of_a_pair_are_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, images = small_pairs(tmp_path / "pairs", 10, 3), small_images(tmp_path / "images", 10)

    def answer(request: Request) -> dict[str, str]:
        if request.answer == ("caption",):
            return {"caption": f"a thing {request.image_digests[0][:6]}"}
        return {"modification": f"Now with {int(request.request_id[:2], 16) % 4} dots."}

    _answering(monkeypatch, answer)
    config = MraCirGenerate(**_fields(tmp_path), texts_per_pair=3, retries=1)
    artifact, rows = _make(config, pairs, images)
    by_pair: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_pair.setdefault(row["pair_id"], []).append(row)
    assert len(by_pair) == 10 == artifact.counts.kept
    for pair_id, group in by_pair.items():
        texts = [row["modification"] for row in group]
        assert len(set(texts)) == len(texts)
        assert {row["triplet_id"] for row in group} <= {pair_id, f"{pair_id}-1", f"{pair_id}-2"}
    rejected = artifact.read(REJECTED, "rejected.parquet")
    assert set(rejected["reason"].to_pylist()) == {"repeated"}
    assert rejected.num_rows + len(rows) == 30 == artifact.counts.detail["texts"]["wanted"]
    assert artifact.counts.detail["texts"]["rejected"] == {"repeated": rejected.num_rows}
    again = artifact.counts.detail["retries"]
    assert again > 0
    assert artifact.counts.detail["rejections"] == {"repeated": again + rejected.num_rows}
    # No request is asked twice, and those taken back are marked.
    generations = artifact.read(GENERATIONS, "generations.parquet")
    assert generations.num_rows == 10 + 30 + again == artifact.counts.detail["asked"]
    used = {one for row in rows for one in row["provenance"]["request_ids"]}
    refused = [row["request_id"] for row in generations.to_pylist() if row["rejected"] == "repeated"]
    assert used.isdisjoint(refused)
    assert len(refused) == again + rejected.num_rows


def test_edits_are_balanced_or_left_to_the_model(tmp_path: Path) -> None:
    config = MvftJiGenerate(backend="vllm")
    kinds = Counter(config.edit_type_of(0, str(place), 0) for place in range(2000))
    assert set(kinds) == set(EDIT_TYPES) == set(KINDS)  # the words that the small model knows
    assert 150 < min(kinds.values()) <= max(kinds.values()) < 250  # 200 expected, standard deviation 13
    assert len({config.edit_type_of(0, "one", draw) for draw in range(10)}) == 10
    assert config.edit_type_of(1, "one", 0) != config.edit_type_of(0, "one", 0) or config.edit_type_of(
        1, "two", 0
    ) != config.edit_type_of(0, "two", 0)
    assert MvftJiGenerate(edits="natural").edit_type_of(0, "one", 0) == ANY


def test_styles_are_drawn_by_their_weights() -> None:
    config = MraCirGenerate(styles=("short", "sentence", "concept"), style_weights=(6, 3, 1))
    drawn = Counter(config.style_of(0, str(place), 0) for place in range(2000))
    # 1,200, 600 and 200 expected; standard deviations 22, 20 and 13.
    for style, expected in {"short": 1200, "sentence": 600, "concept": 200}.items():
        assert abs(drawn[style] - expected) < 90


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MraCirGenerate(style_weights=(1.0,)), "1 style_weights for 2 styles"),
        (lambda: MvftJiGenerate(edit_types=("colour", "colour")), "edit_types are different words"),
        (lambda: MvftJiGenerate(target_text_prompt="caption"), "prompt 'caption' shows 1 images"),
        (lambda: InstructCirGenerate(instruction_prompt="judge"), "prompt 'judge' shows 2 images"),
        (lambda: InstructCirGenerate(instruction_prompt="instruction"), "no prompt 'instruction'"),
    ],
)
def test_a_config_that_cannot_work_is_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        make()


def test_the_second_set_of_prompts_fits_every_recipe() -> None:
    MraCirGenerate(caption_prompt="caption_b", modification_prompt="mra_cir/modification_b")
    MvftJiGenerate(
        caption_prompt="caption_b",
        modification_prompt="mvft_ji/modification_b",
        target_text_prompt="mvft_ji/target_text_b",
    )
    InstructCirGenerate(instruction_prompt="instruct_cir/instruction_b")


def test_the_wrong_inputs_are_refused(tmp_path: Path) -> None:
    pairs, images = small_pairs(tmp_path / "pairs", 4, 1), small_images(tmp_path / "images", 4)
    with pytest.raises(ValueError, match="give it the pairs"):
        generate.make(MraCirGenerate(**_fields(tmp_path)), None, images, resources=Resources())
    with pytest.raises(ValueError, match="give it no pairs"):
        generate.make(MvftJiGenerate(**_fields(tmp_path)), pairs, images, resources=Resources())


def test_mra_cir_can_write_from_the_images_alone(tmp_path: Path) -> None:
    images, pairs = small_images(tmp_path / "images", 12), small_pairs(tmp_path / "pairs", 12, 3)
    artifact, rows = _make(MraCirGenerate(**_fields(tmp_path), caption_prompt=None), pairs, images)
    requests = artifact.read(GENERATIONS, "generations.parquet").to_pylist()
    assert {row["prompt"] for row in requests} == {"mra_cir/modification"}
    assert all(row["rendered"].count("not described") == 2 for row in requests)
    assert len(rows) == 12
    assert {(row["reference_caption"], row["target_caption"]) for row in rows} == {(None, None)}
    assert rows[0]["provenance"]["caption_prompt_digest"] == ""
