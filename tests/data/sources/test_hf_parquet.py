"""Hugging Face data sets in their two forms on disk."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.sources.hf_parquet import Config, open_source
from tasks.ingest import IngestConfig, listing_facts, open_image
from tests.data.sources.ingesting import ingested, reasons, rows
from tests.data.sources.test_webdataset import jpeg
from tests.shared_data import shared_data


def write(path: Path, count: int, first: int = 0, **columns: list[Any]) -> Path:
    """A Parquet file with a struct of bytes and path, and whatever else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": jpeg(first + n), "path": f"{first + n}.jpg"} for n in range(count)]
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=4)
    return path


def test_both_real_forms_give_the_same_ids_and_pixels(tmp_path: Path) -> None:
    root = shared_data("hf_parquet")
    made = {form: ingested(tmp_path / form, source="hf_parquet", path=root / form) for form in ("data", "saved")}
    for counts, _ in made.values():
        assert (counts.read, counts.kept, counts.dropped) == (40, 40, {})
    one, other = (rows(artifact) for _, artifact in made.values())
    assert [row["image_id"] for row in one] == [f"{n:09d}" for n in range(40)]
    assert one == other
    for left, right in zip(one, other, strict=True):
        pixels = [
            np.asarray(open_image(artifact, row["uri"]))
            for row, (_, artifact) in zip((left, right), made.values(), strict=True)
        ]
        assert np.array_equal(*pixels)
    # The class is the wnid that the picture's path begins with.
    assert one[0]["label"] == "n01440764"
    assert len({row["label"] for row in one}) == 40
    # The same pictures as files.
    with Image.open(shared_data("cc3m_img2dataset/www_source/n01440764_tench.JPEG")) as picture:
        assert np.array_equal(np.asarray(open_image(made["saved"][1], one[0]["uri"])), np.asarray(picture))


def test_what_datasets_writes_is_read(tmp_path: Path) -> None:
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["crane", "tench"]), caption=datasets.Value("string")
    )
    table = {
        "image": [{"bytes": jpeg(n), "path": None} for n in range(5)],
        "label": [0, 1, 1, -1, 0],
        "caption": ["a", "b", " ", None, "e"],
    }
    made = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(tmp_path / "both")
    made.to_parquet(tmp_path / "hub/data/train-00000-of-00003.parquet")
    counts, saved = ingested(tmp_path / "saved", source="hf_parquet", path=tmp_path / "both", split="train")
    assert counts.kept == 5
    counts, hub = ingested(tmp_path / "out", source="hf_parquet", path=tmp_path / "hub")
    assert counts.detail["files_missing"] == 2
    assert rows(saved) == rows(hub)
    assert [(row["label"], row["caption"]) for row in rows(hub)] == [
        ("crane", "a"), ("tench", "b"), ("tench", None), (None, None), ("crane", "e"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="saved splits are of several splits: test, train; choose one by split="):
        listing_facts(IngestConfig(source="hf_parquet", path=tmp_path / "both"))


@pytest.mark.parametrize("form", ["data", "saved"])
def test_classes_of_the_real_pictures(form: str) -> None:
    found = list(open_source(Config(path=shared_data("hf_parquet") / form, classes=("n01443537", "n02"))).items())
    assert [(item.image_id, item.label) for item in found] == [("000000001", "n01443537"), ("n02", None)]
    assert found[1].refused is not None
    assert found[1].refused[0] == "no_such_class"


def test_splits_are_told_by_file_names(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", 3)
    write(tmp_path / "data/train-00001-of-00002.parquet", 3, first=3)
    write(tmp_path / "data/validation-00000-of-00001.parquet", 2, first=6)
    with pytest.raises(ValueError, match="several splits: train, validation"):
        open_source(Config(path=tmp_path))
    found = open_source(Config(path=tmp_path, split="train"))
    assert [item.image_id for item in found.items()] == [f"{n:09d}" for n in range(6)]
    assert len(found) == 6
    assert len(list(open_source(Config(path=tmp_path, split="val")).items())) == 2


def test_rows_without_a_picture_are_counted(tmp_path: Path) -> None:
    beside = tmp_path / "in/beside.jpg"
    images = [
        {"bytes": jpeg(0), "path": "a.jpg"}, None, {"bytes": None, "path": None}, {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": "/nowhere/x.jpg"}, {"bytes": b"<html>", "path": "b.jpg"},
    ]  # fmt: skip
    beside.parent.mkdir()
    beside.write_bytes(jpeg(1))
    captions = [["first", "second"], [], None, [None, "later"], ["x"], ["x"]]
    pq.write_table(pa.table({"image": images, "captions": captions}), tmp_path / "in/0.parquet")
    _, artifact = ingested(tmp_path / "out", source="hf_parquet", path=tmp_path / "in/0.parquet")
    assert list(reasons(artifact).values()) == ["no_image", "no_image", "unreadable", "not_an_image"]
    assert [(row["image_id"], row["caption"]) for row in rows(artifact)] == [
        ("000000000", "first"),
        ("000000003", "later"),
    ]
    assert rows(artifact)[1]["uri"] == str(beside)


def test_a_table_of_img2dataset_with_pictures_in_it(tmp_path: Path) -> None:
    """Its output format `parquet`: the bytes in a column `jpg`, and the rows that failed too."""
    table = {
        "jpg": [jpeg(0), None, jpeg(2)],
        "txt": ["a", None, "c"],
        "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "failed_to_download", "success"],
        "error_message": [None, "HTTP Error 410: Gone", None],
        "url": ["http://x/0", "http://x/1", "http://x/2"],
        "sha256": ["ab" * 32, None, "cd" * 32],
        "original_width": [500, None, 1],
        "original_height": [400, None, 1],
    }
    pq.write_table(pa.table(table), tmp_path / "00000.parquet")
    _, artifact = ingested(tmp_path / "out", source="hf_parquet", path=tmp_path)
    assert reasons(artifact) == {"000000001": "failed_to_download_http_410", "000000002": "too_small"}
    assert [(row["url"], row["sha256"], row["caption"]) for row in rows(artifact)] == [("http://x/0", "ab" * 32, "a")]


def test_subsets(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", 10, label=[n % 2 for n in range(10)])
    write(tmp_path / "1.parquet", 10, first=10, label=[2] * 10)

    def ids(**more: Any) -> list[int]:
        return [int(item.image_id) for item in open_source(Config(path=tmp_path, **more)).items()]

    assert ids(limit=3, draw="first") == [0, 1, 2]
    assert len(ids(limit=7)) == 7
    assert ids(limit=7) != ids(limit=7, seed=1)
    assert ids(classes=("1",)) == [1, 3, 5, 7, 9]
    assert ids(classes=("1", "2"), limit=6, draw="first") == [1, 3, 5, 7, 9, 10]
    listed = tmp_path / "ids.txt"
    listed.write_text("000000012\n000000003\n")
    assert ids(ids=listed) == [3, 12]


def test_tables_without_pictures_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_url": ["http://x"], "caption": ["a"]}), tmp_path / "0.parquet")
    with pytest.raises(ValueError, match=r"no column of pictures, only image_url, caption; .*by img2dataset"):
        open_source(Config(path=tmp_path))
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/0.tar").touch()
    with pytest.raises(ValueError, match=r"found 1 \*\.tar at .*did you mean source=webdataset \(for 1 \*\.tar\)\?"):
        open_source(Config(path=tmp_path / "tars"))
    with pytest.raises(ValueError, match=r"webdataset: .*did you mean source=hf_parquet \(for a data set"):
        listing_facts(IngestConfig(source="webdataset", path=shared_data("hf_parquet/saved")))
