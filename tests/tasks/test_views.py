"""Pairs from several views: image embeddings, captions, tokens; united, each with its view."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from data.artifact import Artifact, read_table, seal, write_table
from data.config import Resources
from data.schemas import IMAGES, PAIRS, REJECTED
from data.tokens import read_tokens
from flows.mra_cir import RECIPE, MraCir
from flows.overrides import configure
from tasks.caption import CAPTIONS, CaptionConfig, caption
from tasks.encode import EncodeConfig, encode
from tasks.rank import RankConfig, rank
from tasks.sample import SampleConfig, pair_id, sample
from tasks.unite import UniteConfig, unite
from tests.models.tiny_blip2 import tiny_checkpoint
from tests.models.tiny_embedders import tiny_clip, tiny_dino
from tests.tasks.scripted_generate import small_model, use_scripted_backend
from tests.tasks.small_artifacts import images_artifact, sealed

RESOURCES = Resources(batch_size=4, workers=1, device="cpu")
SAID = ["a red circle", "a blue star", "two green square", "three red star", "", None, "a green circle", "a star"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """Eight noise images, six of them with a caption."""
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    plain = images_artifact(tmp_path, len(SAID))
    rows = plain.read(IMAGES, "images.parquet").to_pylist()
    table = [row | {"caption": caption} for row, caption in zip(rows, SAID, strict=True)]
    out = tmp_path / "captioned"
    write_table(out / "images.parquet", pa.Table.from_pylist(table, schema=IMAGES), IMAGES)
    return sealed(out, "ingest", len(table))


def test_a_view_is_one_vector_per_image_or_caption(images: Artifact, clip: str) -> None:
    seen = encode.make(EncodeConfig(checkpoint=clip), images, resources=RESOURCES).artifact
    ids, array = read_tokens(seen.file("tokens.arrow"))
    assert (len(ids), array.shape) == (8, (8, 1, 6))
    read = encode.make(EncodeConfig(checkpoint=clip, of="caption"), images, resources=RESOURCES).artifact
    ids, array = read_tokens(read.file("tokens.arrow"))
    assert ids == [f"image-{index:03d}" for index, caption in enumerate(SAID) if caption]
    assert array.shape == (6, 1, 6)
    assert (read.counts.read, read.counts.kept, read.counts.dropped) == (8, 6, {"no_caption": 2})
    assert read.counts.detail == {"tokens": 1, "dim": 6, "cut_captions": 0}


def test_captions_are_written_once_and_then_ranked(tmp_path: Path, images: Artifact, clip: str) -> None:
    use_scripted_backend()
    config = CaptionConfig(backend="scripted", model=str(small_model(tmp_path / "model")))
    written = caption.make(config, images, resources=RESOURCES).artifact
    rows = written.read(CAPTIONS, "captions.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [f"image-{index:03d}" for index in range(8)]
    assert all(row["caption"].startswith("a thing ") for row in rows)
    assert (written.counts.read, written.counts.kept, written.counts.dropped) == (8, 8, {})
    assert written.counts.detail["asked"] == 8
    read = encode.make(EncodeConfig(checkpoint=clip, of="caption"), images, written, resources=RESOURCES).artifact
    assert read_tokens(read.file("tokens.arrow"))[1].shape == (8, 1, 6)
    assert read.counts.dropped == {}  # the source's own captions, six of them, are not looked at
    again = caption.fn(tmp_path, config, images, resources=RESOURCES)
    assert (again.detail["asked"], again.detail["reused"]) == (0, 8)  # generate's captions come from there too


def test_images_without_a_usable_caption_are_counted(
    tmp_path: Path, images: Artifact, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_BAD", "128")  # every second answer
    use_scripted_backend()
    config = CaptionConfig(backend="scripted", model=str(small_model(tmp_path / "model")), retries=0)
    written = caption.make(config, images, resources=RESOURCES).artifact
    lost = written.read(REJECTED, "rejected.parquet").to_pylist()
    assert 0 < len(lost) < 8
    assert written.counts.kept + len(lost) == written.counts.read == 8
    assert {row["stage"] for row in lost} == {"caption"}
    read = encode.make(EncodeConfig(checkpoint=clip, of="caption"), images, written, resources=RESOURCES).artifact
    assert read.counts.dropped == {"no_caption": len(lost)}


def test_captions_that_cannot_be_encoded_are_an_error(tmp_path: Path, images: Artifact, clip: str) -> None:
    dino = EncodeConfig(checkpoint=str(tiny_dino(tmp_path / "dino")), of="caption")
    with pytest.raises(ValueError, match="reads images alone"):
        encode.make(dino, images, resources=RESOURCES)
    plain = images_artifact(tmp_path / "plain", 3)
    with pytest.raises(ValueError, match="none of the 3 images has a caption"):
        encode.make(EncodeConfig(checkpoint=clip, of="caption"), plain, resources=RESOURCES)


def test_three_views_are_mined_and_united(tmp_path: Path, images: Artifact, clip: str) -> None:
    blip2 = str(tiny_checkpoint(tmp_path / "blip2"))
    united = None
    for view, config in (
        ("tokens", EncodeConfig(checkpoint=blip2)),
        ("clip", EncodeConfig(checkpoint=clip)),
        ("captions", EncodeConfig(checkpoint=clip, of="caption")),
    ):
        tokens = encode.make(config, images, resources=RESOURCES).artifact
        ranking = rank.make(RankConfig(depth=5), tokens, resources=RESOURCES).artifact
        pairs = sample.make(SampleConfig(low=1, high=2, view=view), ranking).artifact
        united = pairs if united is None else unite.make(UniteConfig(), united, pairs).artifact
    assert united is not None
    rows = united.read(PAIRS, "pairs.parquet").to_pylist()
    assert {row["view"] for row in rows} == {"tokens", "clip", "captions"}
    assert Counter(row["view"] for row in rows)["tokens"] == 8  # the first view keeps all its pairs
    assert len({(row["reference_id"], row["target_id"]) for row in rows}) == len(rows)
    assert all(row["pair_id"] == pair_id(row["reference_id"], row["target_id"], row["view"]) for row in rows)


def pairs_of(folder: Path, view: str, pairs: list[tuple[str, str]]) -> Artifact:
    rows = [
        {
            "pair_id": pair_id(reference, target, view), "reference_id": reference, "target_id": target, "rank": 1,
            "score": 0.5, "view": view,
        }
        for reference, target in pairs
    ]  # fmt: skip
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["pair_id"])), schema=PAIRS)
    write_table(folder / view / "pairs.parquet", table, PAIRS)
    return sealed(folder / view, "sample", len(rows))


def test_a_pair_found_twice_stays_that_of_the_first_view(tmp_path: Path) -> None:
    first = pairs_of(tmp_path, "tokens", [("a", "b"), ("b", "c")])
    second = pairs_of(tmp_path, "clip", [("a", "b"), ("b", "a"), ("a", "c")])
    counts = unite.fn(tmp_path, UniteConfig(), first, second)
    table = read_table(tmp_path / "pairs.parquet", PAIRS)
    assert {(row["reference_id"], row["target_id"], row["view"]) for row in table.to_pylist()} == {
        ("a", "b", "tokens"), ("b", "c", "tokens"), ("b", "a", "clip"), ("a", "c", "clip"),
    }  # fmt: skip
    assert table["pair_id"].to_pylist() == sorted(table["pair_id"].to_pylist())
    assert (counts.read, counts.kept, counts.dropped) == (5, 4, {"found_by_another_view": 1})
    assert counts.detail["pairs_of"] == {"clip": 2, "tokens": 2}
    seal(tmp_path, counts, stage="unite")


def test_two_views_of_one_name_are_refused(tmp_path: Path) -> None:
    one = pairs_of(tmp_path, "tokens", [("a", "b")])
    with pytest.raises(ValueError, match="both have pairs of view 'tokens'"):
        unite.fn(tmp_path, UniteConfig(), one, one)


def test_the_stages_of_views_can_be_named() -> None:
    plain = RECIPE.config()
    view = {"encode": {"checkpoint": "some/clip"}, "sample": {"view": "clip"}}
    asking = {"encode": {"checkpoint": "some/clip", "of": "caption"}, "sample": {"view": "said"}, "caption": {}}
    both = MraCir.model_validate({"views": [view, asking]})
    assert RECIPE.planned_names(plain) == RECIPE.stage_names
    assert RECIPE.planned_names(both)[4:14] == [
        *("windows", "encode", "rank", "sample", "unite"),
        *("caption", "encode", "rank", "sample", "unite"),
    ]
    assert RECIPE.check(both, ["caption"], "unite") == []
    assert RECIPE.check(both, ["encode", "mine"], "unite") == [
        "stage 'mine' is to be rerun but comes after 'unite', where the run is to stop"
    ]
    assert "no stage 'unite' to stop after" in RECIPE.check(plain, [], "unite")[0]
    assert RECIPE.check(None, [], "unite") == []


def test_the_recipe_takes_views_from_the_command_line() -> None:
    written = (
        'views=[{"encode": {"checkpoint": "C"}, "sample": {"view": "clip", "by": "score", "low": 0.8, "high": 1}}]'
    )
    view: Any = configure(MraCir, [written]).views[0]
    assert (view.encode.checkpoint, view.sample.view, view.sample.by) == ("C", "clip", "score")
    with pytest.raises(ValidationError, match="captions are written but not read"):
        MraCir.model_validate({"views": [{"encode": {}, "sample": {"view": "a"}, "caption": {}}]})
    with pytest.raises(ValidationError, match="two views are called 'tokens'"):
        MraCir.model_validate({"views": [{"encode": {"checkpoint": "C"}, "sample": {}}]})
