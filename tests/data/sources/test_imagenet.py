"""ImageNet's layouts."""

from pathlib import Path
from typing import Any

import pytest

from data.sources.imagenet import Config, open_source
from tasks.ingest import IngestConfig, listing_facts
from tests.data.sources.ingesting import ingested, rows
from tests.data.sources.test_listed import write_files
from tests.shared_data import shared_data

SYNSETS = """n01440764 tench, Tinca tinca
n02012849 crane
n03126707 crane
n03710637 maillot
n03710721 maillot, tank suit
"""


def found(path: Path, **settings: Any) -> list[tuple[str, str | None]]:
    return [(item.image_id, item.label) for item in open_source(Config(path=path, **settings)).items()]


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    data = tmp_path / "ILSVRC/Data/CLS-LOC"
    write_files(
        data / "train", "n02012849/n02012849_1.JPEG", "n01440764/n01440764_18.JPEG", "n03126707/n03126707_5.JPEG"
    )
    write_files(data / "val", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
    write_files(data / "test", "ILSVRC2012_test_00000001.JPEG", "ILSVRC2012_test_00000002.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text(SYNSETS)
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8\n"
        "ILSVRC2012_val_00000001,n02012849 1 2 3 4\n"
    )
    return tmp_path


TRAIN = [
    ("n01440764/n01440764_18.JPEG", "n01440764"),
    ("n02012849/n02012849_1.JPEG", "n02012849"),
    ("n03126707/n03126707_5.JPEG", "n03126707"),
]


def test_kaggle_s_layout(kaggle: Path) -> None:
    with pytest.raises(ValueError, match="has the splits test, train, val; choose one by split="):
        found(kaggle)
    assert found(kaggle, split="train") == TRAIN
    assert found(kaggle, split="validation") == [
        ("ILSVRC2012_val_00000001.JPEG", "n02012849"),
        ("ILSVRC2012_val_00000002.JPEG", "n01440764"),
    ]
    assert [label for _, label in found(kaggle, split="test")] == [None, None]
    # The folder of a split itself, with the tables in a folder above it.
    assert found(kaggle / "ILSVRC/Data/CLS-LOC/val") == found(kaggle, split="val")
    with pytest.raises(ValueError, match="has no split 'tset'; did you mean 'test'"):
        found(kaggle, split="tset")


def test_image_folder_gives_the_same_ids_and_classes(kaggle: Path) -> None:
    (kaggle / "ILSVRC/Data/CLS-LOC").rename(kaggle / "imagenet")
    assert found(kaggle / "imagenet", split="train") == TRAIN
    assert found(kaggle / "imagenet/train") == TRAIN
    assert len(found(kaggle / "imagenet/test")) == 2


def test_classes_are_wnids_and_names_where_they_are_unique(kaggle: Path) -> None:
    assert found(kaggle, split="train", classes=("n02012849",)) == TRAIN[1:2]
    assert found(kaggle, split="train", classes=("Tench", "n03126707")) == [TRAIN[0], TRAIN[2]]
    assert found(kaggle, split="val", classes=("tench",)) == [("ILSVRC2012_val_00000002.JPEG", "n01440764")]
    with pytest.raises(ValueError, match="'crane' is the name of 2 classes; give the wnid: n02012849 or n03126707"):
        found(kaggle, split="train", classes=("crane",))
    with pytest.raises(ValueError, match="no class of ImageNet is named 'tenhc'; did you mean 'tench'"):
        found(kaggle, split="train", classes=("tenhc",))


def test_a_changed_solution_is_another_listing(kaggle: Path) -> None:
    config = IngestConfig(source="imagenet", path=kaggle, split="val")
    before = listing_facts(config)
    assert before["items"] == 2
    path = kaggle / "LOC_val_solution.csv"
    path.write_text(path.read_text().replace("n02012849", "n03710721"))
    assert listing_facts(config)["listing"] != before["listing"]
    path.write_text(path.read_text().replace("n03710721", "crane"))
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000001 has the class 'crane'; expected a wnid"):
        listing_facts(config)
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="expected ImageId and PredictionString"):
        listing_facts(config)


def test_the_stage_on_a_subset(kaggle: Path, tmp_path: Path) -> None:
    counts, artifact = ingested(tmp_path / "out", source="imagenet", path=kaggle, split="train", classes=("n01440764",))
    assert (counts.read, counts.kept) == (1, 1)
    assert rows(artifact)[0]["label"] == "n01440764"


def test_the_real_photos_are_recognised() -> None:
    labels = {label for _, label in found(shared_data("images"))}
    assert len(labels) == 200


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found an empty folder .*; expected class folders named by wnids"):
        found(tmp_path)
    with pytest.raises(ValueError, match="did you mean source=hf_parquet"):
        found(shared_data("hf_parquet/data"))
