"""Triplets leave the store, and come back."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from data.artifact import Artifact, Counts, seal, write_table
from data.schemas import IMAGES, REJECTED, TRIPLETS
from flows.__main__ import app
from tasks.card import ExportOptions
from tasks.export import export_dataset, new_folder
from tasks.ingest import IngestConfig, ingest
from tasks.lineage import lineage
from tasks.megapairs import MegaPairsConfig, export_megapairs, megapairs
from tasks.plans.mra_cir import MraCirGenerate

COUNTS = Counts(read=3, kept=2, dropped={"empty": 1}, written=2)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")  # read when it was imported


PHOTOS = ("some/0.png", "some/1.png", "some/2.png", "some/3.png", "some/4.jpg")


def _photos(tmp_path: Path) -> Path:
    """Five photos of different colours: some/0.png to some/4.jpg."""
    folder = tmp_path / "photos" / "some"
    folder.mkdir(parents=True)
    for place in range(5):
        suffix = "png" if place < 4 else "jpg"
        Image.new("RGB", (20 + place, 16), (50 * place, 0, 0)).save(folder / f"{place}.{suffix}")
    return tmp_path / "photos"


def _triplets(tmp_path: Path, tarred: bool = False) -> Artifact:
    """Three triplets, two of them about one pair, over ingested photos; the third has no target image.

    With `tarred`, the photos are members of a tar, and their ids have no suffix.
    """
    photos = _photos(tmp_path)
    config = IngestConfig(source="folder", path=photos)
    if tarred:
        (tmp_path / "tars").mkdir()
        with tarfile.open(tmp_path / "tars" / "some.tar", "w") as tar:
            for path in sorted((photos / "some").iterdir()):
                tar.add(path, path.name)
        config = IngestConfig(source="webdataset", path=tmp_path / "tars")
    images = ingest.make(config).artifact
    names = {name: name.partition(".")[0] if tarred else name for name in PHOTOS}
    shared: dict[str, Any] = {
        **dict.fromkeys(TRIPLETS.names),
        "recipe": "mra_cir",
        "provenance": {
            **{"model": "m", "revision": "r", "prompt_digest": "p", "caption_prompt_digest": "c"},
            "request_ids": ["q"],
        },
    }
    negatives = [names["some/2.png"], names["some/0.png"]]
    pair = {"reference_id": names["some/0.png"], "target_id": names["some/1.png"], "negative_ids": negatives}
    rows = [
        shared | pair | {"triplet_id": "a", "modification": 'redder, "much"'},
        shared | pair | {"triplet_id": "a-1", "modification": "wider"},
        shared
        | {"triplet_id": "b", "reference_id": names["some/4.jpg"], "modification": "blue", "target_text": "a blue one"},
    ]
    asked = MraCirGenerate(model=str(tmp_path / "secret" / "model")).model_dump(mode="json")
    facts = {"revision": "rev", "prompts": {"caption": "d" * 64}}
    out = tmp_path / "triplets"
    write_table(out / "triplets.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    return seal(out, COUNTS, stage="generate", config=asked, facts=facts, inputs={"images": images})


def test_hugging_face_opens_the_export_and_its_images(tmp_path: Path) -> None:
    triplets = _triplets(tmp_path)
    done = export_dataset(triplets, tmp_path / "out", ExportOptions(licence="cc-by-4.0"))
    assert {name: part.rows for name, part in done.parts.items()} == {"triplets": 3, "negatives": 2}
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert [row["triplet_id"] for row in rows] == ["a", "a-1", "b"]
    assert isinstance(rows.features["reference_image"], datasets.Image)
    assert rows[0]["reference_image"].size == (20, 16)
    assert rows[0]["target_image"].getpixel((0, 0)) == (50, 0, 0)
    assert rows[0]["negative_ids"] == ["some/2.png", "some/0.png"]
    assert rows[2]["target_image"] is None
    assert rows[2]["target_text"] == "a blue one"
    negatives = datasets.load_dataset(str(tmp_path / "out"), "negatives", split="train")
    assert [(row["image_id"], row["image"].width) for row in negatives] == [("some/0.png", 20), ("some/2.png", 22)]
    assert sorted(path.name for path in (tmp_path / "out" / "data").iterdir()) == ["train-00000-of-00001.parquet"]


@pytest.mark.parametrize("images", ["embed", "paths"])
def test_images_in_tars_are_embedded_either_way(tmp_path: Path, images: Literal["embed", "paths"]) -> None:
    export_dataset(_triplets(tmp_path, tarred=True), tmp_path / "out", ExportOptions(images=images))
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows[0]["reference_image"].size == (20, 16)
    assert rows[2]["reference_image"].size == (24, 16)
    raw = rows.cast_column("reference_image", datasets.Image(decode=False))
    assert [row["reference_image"]["path"] for row in raw] == ["some_0.png", "some_0.png", "some_4.jpeg"]


def test_megapairs_of_images_in_tars(tmp_path: Path) -> None:
    export_megapairs(_triplets(tmp_path, tarred=True), tmp_path / "out", ExportOptions())
    (row,) = map(json.loads, (tmp_path / "out" / "megapairs.jsonl").read_text(encoding="utf-8").splitlines())
    assert (row["q_img"], row["t_img"]) == ("images/some/0.png", "images/some/1.png")
    with Image.open(tmp_path / "out" / row["t_img"]) as picture:
        assert picture.size == (21, 16)


def test_the_card_says_who_wrote_it_and_names_no_place_of_this_machine(tmp_path: Path) -> None:
    triplets = _triplets(tmp_path)
    export_dataset(triplets, tmp_path / "out", ExportOptions(licence="cc-by-4.0", image_licence="CC0"))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for part in ("license: cc-by-4.0", "dataset_info:", "num_examples: 3", "config_name: negatives", "Images: CC0"):
        assert part in card
    for part in ("`model`", "`rev`", "d" * 64, "| generate | 3 | 2 | empty 1 | 2 |", "| ingest | 5 | 5 | 0 | 5 |"):
        assert part in card
    for column in TRIPLETS.names:
        assert f"| `{column}` |" in card
    facts = json.loads((tmp_path / "out" / "cirque.json").read_text())
    assert [stage["stage"] for stage in facts["stages"]] == ["ingest", "generate"]
    assert str(tmp_path) not in card + json.dumps(facts)


def test_paths_instead_of_bytes(tmp_path: Path) -> None:
    triplets = _triplets(tmp_path)
    export_dataset(triplets, tmp_path / "out", ExportOptions(images="paths"))
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows.cast_column("reference_image", datasets.Image(decode=False))[0]["reference_image"] == {
        **{"bytes": None, "path": str(tmp_path / "photos" / "some" / "0.png")}
    }
    assert rows[2]["reference_image"].size == (24, 16)


def test_shards_and_groups_hold_every_row_once(tmp_path: Path) -> None:
    triplets = _triplets(tmp_path)
    table = triplets.read(TRIPLETS, "triplets.parquet").slice(0, 1)
    many = pa.concat_tables([table] * 450).set_column(
        0, TRIPLETS.field("triplet_id"), pa.array([f"t{place:04}" for place in range(450)])
    )
    out = tmp_path / "many"
    write_table(out / "triplets.parquet", many, TRIPLETS)
    inputs = {"images": lineage(triplets)[0]}
    many_triplets = seal(out, COUNTS, stage="generate", config=triplets.manifest["config"], inputs=inputs)
    export_dataset(many_triplets, tmp_path / "out", ExportOptions(shard_bytes=1))
    assert len(list((tmp_path / "out" / "data").glob("train-*-of-00005.parquet"))) == 5
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows["triplet_id"][:] == [f"t{place:04}" for place in range(450)]


def test_a_missing_image_stops_the_export_or_is_counted(tmp_path: Path) -> None:
    triplets = _triplets(tmp_path)
    (tmp_path / "photos" / "some" / "1.png").unlink()
    with pytest.raises(OSError, match=r"image 'some/1.png' cannot be read .*--allow-missing"):
        export_dataset(triplets, tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()
    done = export_dataset(triplets, tmp_path / "out", ExportOptions(allow_missing=True))
    assert (done.parts["triplets"].rows, done.dropped) == (1, {"target_image_missing": 2})
    assert "target_image_missing 2" in (tmp_path / "out" / "README.md").read_text()
    assert not list(tmp_path.glob(".out*"))


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    _triplets(tmp_path)
    arguments = ["export", str(tmp_path / "triplets"), "--to", str(tmp_path / "out")]
    runner = CliRunner()
    first = runner.invoke(app, arguments)
    assert (first.exit_code, "triplets: 3 rows" in first.output) == (0, True)
    again = runner.invoke(app, arguments)
    assert (again.exit_code, "is not empty" in again.output) == (1, True)
    assert runner.invoke(app, [*arguments, "--force"]).exit_code == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    (mine / "cirque.json").write_text('{"temperature": 0.07}')  # as in the folder of a checkpoint
    refused = runner.invoke(app, [*arguments[:-1], str(mine), "--force"])
    assert (refused.exit_code, (mine / "thesis.txt").exists()) == (1, True)
    unsealed = runner.invoke(app, ["export", str(mine), "--to", str(tmp_path / "x")])
    assert (unsealed.exit_code, "not a sealed artifact" in unsealed.output) == (1, True)
    nothing = runner.invoke(app, ["export", "--to", str(tmp_path / "x")])
    assert (nothing.exit_code, "no run yet" in nothing.output) == (1, True)


def test_a_link_to_a_folder_and_the_working_directory_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triplets = _triplets(tmp_path)
    for name in ("disk", "here"):
        (tmp_path / name).mkdir()
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to("disk")
    dangling.symlink_to("disk/new")
    export_dataset(triplets, link, ExportOptions())
    export_dataset(triplets, link, ExportOptions(), force=True)
    assert link.is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [
        *("README.md", "cirque.json", "data", "negatives")
    ]
    export_dataset(triplets, dangling, ExportOptions())
    assert (tmp_path / "disk" / "new" / "cirque.json").is_file()
    monkeypatch.chdir(tmp_path / "here")
    export_dataset(triplets, Path(), ExportOptions())
    assert "cirque.json" in os.listdir()  # the shell still stands in it
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_no_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "circle").symlink_to("circle")
    for name, found in (("file", "is a file; want a folder"), ("circle", "is a link that leads in a circle")):
        with pytest.raises(FileExistsError, match=found), new_folder(tmp_path / name, True):
            pytest.fail("there was work")


def test_megapairs_rows_go_out_and_come_in_again(tmp_path: Path) -> None:
    triplets = _triplets(tmp_path)
    done = export_megapairs(triplets, tmp_path / "out", ExportOptions())
    assert done.dropped == {"no_target_image": 1}
    (row,) = map(json.loads, (tmp_path / "out" / "megapairs.jsonl").read_text(encoding="utf-8").splitlines())
    assert row == {
        "q_img": "images/some/0.png",
        "q_text": ['redder, "much"', "wider"],
        "t_img": "images/some/1.png",
        "hns": ["images/some/0.png", "images/some/2.png"],  # the query image first
    }
    images = ingest.make(IngestConfig(source="folder", path=tmp_path / "out")).artifact
    back = megapairs.make(MegaPairsConfig(path=tmp_path / "out" / "megapairs.jsonl"), images).artifact
    rows = back.read(TRIPLETS, "triplets.parquet").to_pylist()
    assert {row["modification"] for row in rows} == {'redder, "much"', "wider"}
    assert {(row["reference_id"], row["target_id"]) for row in rows} == {("images/some/0.png", "images/some/1.png")}
    assert rows[0]["negative_ids"] == ["images/some/0.png", "images/some/2.png"]
    assert len({row["triplet_id"] for row in rows}) == 2
    # Once more out: the same row.
    export_megapairs(back, tmp_path / "twice", ExportOptions())
    (again,) = map(json.loads, (tmp_path / "twice" / "megapairs.jsonl").read_text(encoding="utf-8").splitlines())
    assert sorted(again["q_text"]) == sorted(row["q_text"])
    assert len(again["hns"]) == 2


def test_every_megapairs_line_is_accounted_for(tmp_path: Path) -> None:
    images = ingest.make(IngestConfig(source="folder", path=_photos(tmp_path))).artifact
    good = {"q_img": "some/0.png", "q_text": ["a", " ", "a", "b"], "t_img": "./some/1.png", "hns": ["some/0.png", "x"]}
    lines = [
        json.dumps(good),
        "{broken",
        json.dumps({"q_img": "some/0.png"}),
        json.dumps(good | {"q_text": [" "]}),
        json.dumps(good | {"q_text": [1]}),
        json.dumps(good | {"q_img": "some/9.png"}),
        json.dumps(good | {"t_img": "some/9.png"}),
        "",
        json.dumps(good | {"q_text": "one text", "hns": None}),
    ]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "0.jsonl").write_text("\n".join(lines), encoding="utf-8")
    parquet = pa.Table.from_pylist([good | {"q_img": "some/2.png"}])
    pq.write_table(parquet, tmp_path / "rows" / "1.parquet")
    artifact = megapairs.make(MegaPairsConfig(path=tmp_path / "rows"), images).artifact
    reasons = ("not_json", "missing_field", "no_text", "wrong_type", "query_image_missing", "target_image_missing")
    assert artifact.counts.dropped == dict.fromkeys(reasons, 1)
    assert (artifact.counts.read, artifact.counts.kept, artifact.counts.written) == (9, 3, 2 + 1 + 2)
    assert artifact.counts.detail == {"negatives_missing": 2, "texts_repeated": 0}
    assert artifact.read(REJECTED, "rejected.parquet")["row_id"].to_pylist()[0] == "0.jsonl:2"
    few = megapairs.make(MegaPairsConfig(path=tmp_path / "rows", limit=1), images).artifact
    assert few.counts.read == 1


def test_megapairs_without_rows_or_images_says_so(tmp_path: Path) -> None:
    images = ingest.make(IngestConfig(source="folder", path=_photos(tmp_path))).artifact
    assert images.read(IMAGES, "images.parquet").num_rows == 5
    with pytest.raises(ValueError, match=r"megapairs\.path=\.\.\. is needed"):
        megapairs.make(MegaPairsConfig(), images)
    with pytest.raises(ValueError, match=r"found no .jsonl or .parquet file"):
        megapairs.make(MegaPairsConfig(path=tmp_path / "photos"), images)
    (tmp_path / "rows.jsonl").write_text('{"q_img": "a", "q_text": ["b"], "t_img": "c", "hns": []}\n')
    with pytest.raises(ValueError, match=r"none of the 1 rows can be used .* such as 'some/0.png'"):
        megapairs.make(MegaPairsConfig(path=tmp_path / "rows.jsonl"), images)
