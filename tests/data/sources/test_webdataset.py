"""Tars of samples: whole ones, cut ones, incomplete shards, subsets."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from webdataset import TarWriter

from data.sources.webdataset import Config, open_source, read_tar
from tasks.ingest import IngestConfig, listing_facts, open_image
from tests.data.sources.ingesting import ingested, reasons, rows
from tests.shared_data import shared_data


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(values).save(stream, "JPEG")
    return stream.getvalue()


def write_shard(path: Path, first: int, count: int, **more: Any) -> Path:
    """Samples `first` .. of a tar, the last one first, as downloads finish in any order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path)) as tar:
        for number in reversed(range(first, first + count)):
            tar.write({"__key__": f"{number:05d}", "jpg": jpeg(number), "txt": f"picture {number}", **more})
    return path


def write_table(path: Path, keys: list[str], **columns: list[Any]) -> None:
    status = columns.pop("status", ["success"] * len(keys))
    pq.write_table(pa.table({"key": keys, "status": status, **columns}), path)


def fault(path: Path) -> str | None:
    found = read_tar(path).fault
    return None if found is None else found[0]


def test_samples_come_in_the_order_of_their_keys(tmp_path: Path) -> None:
    write_shard(tmp_path / "in/00001.tar", 5, 5)
    write_shard(tmp_path / "in/00000.tar", 0, 5)
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=tmp_path / "in")
    assert (counts.read, counts.kept, counts.detail["shards"]) == (10, 10, 2)
    assert [row["image_id"] for row in rows(artifact)] == [f"{n // 5:05d}/{n:05d}" for n in range(10)]
    assert [row["caption"] for row in rows(artifact)] == [f"picture {n}" for n in range(10)]
    for number, row in enumerate(rows(artifact)):
        with Image.open(io.BytesIO(jpeg(number))) as picture:
            assert open_image(artifact, row["uri"]).tobytes() == picture.convert("RGB").tobytes()
    assert not (artifact.path / "images").exists()


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (10_000, "truncated_shard"),  # in the middle of a member
        (2300, "truncated_shard"),
        (512, "unreadable_shard"),  # behind the first header
        (100, "unreadable_shard"),
    ],
)
def test_of_a_cut_tar_every_whole_sample_is_kept(tmp_path: Path, cut: int, reason: str) -> None:
    whole = write_shard(tmp_path / "in/00000.tar", 0, 8)
    write_shard(tmp_path / "in/00001.tar", 8, 2)
    ends = [members["jpg"].start + members["jpg"].length for members in read_tar(whole).members.values()]
    whole.write_bytes(whole.read_bytes()[:cut])
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=tmp_path / "in")
    assert counts.kept == sum(end <= cut for end in ends) + 2
    assert counts.dropped[reason] == 1
    assert reasons(artifact)["00000.tar"] == reason


def test_a_tar_cut_between_members_or_overwritten_in_the_middle_is_noticed(tmp_path: Path) -> None:
    """tarfile alone takes both for the end of the archive."""
    whole = write_shard(tmp_path / "in/00000.tar", 0, 4)
    assert fault(whole) is None
    spans = [place for members in read_tar(whole).members.values() for place in members.values()]
    second = sorted(place.start for place in spans)[2] - 512  # where the third member's header is
    content = whole.read_bytes()
    whole.write_bytes(content[:second])
    assert fault(whole) == "truncated_shard"
    assert len(read_tar(whole).members) == 1
    whole.write_bytes(content[:second] + b"x" * 512 + content[second + 512 :])
    assert fault(whole) == "damaged_shard"
    assert len(read_tar(whole).members) == 1
    whole.write_bytes(b"<html>not found</html>" * 100)
    assert fault(whole) == "unreadable_shard"
    whole.write_bytes(b"")
    assert fault(whole) == "unreadable_shard"


def test_rows_that_a_cut_tar_lost_are_named_by_its_table(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in/00000.tar", 0, 6)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    keys = [f"{n:05d}" for n in range(7)]
    status = ["success"] * 6 + ["failed_to_download"]
    write_table(tmp_path / "in/00000.parquet", keys, status=status, error_message=[None] * 6 + ["HTTP Error 403: No"])
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=tmp_path / "in")
    assert counts.read == 7 + 1  # and the tar itself
    assert 0 < counts.kept < 6
    found = {row["image_id"] for row in rows(artifact)}
    expected = {f"00000/{key}": "lost_from_shard" for key in keys[:6] if f"00000/{key}" not in found}
    assert len(expected) == 6 - counts.kept
    expected |= {"00000.tar": "truncated_shard", "00000/00006": "failed_to_download_http_403"}
    assert reasons(artifact) == expected
    assert counts.detail == {
        "labelled": 0, "classes": 0, "shards": 1, "shards_without_stats": 1,
    }  # fmt: skip


def test_shards_without_stats_or_table_are_used_and_counted(tmp_path: Path) -> None:
    real = tmp_path / "in"
    shutil.copytree(shared_data("cc3m_img2dataset/out_no"), real)
    real.chmod(0o755)
    (real / "00001_stats.json").unlink()
    (real / "00000.parquet").unlink()
    (real / "00001.tar").rename(real / "00003.tar")
    (real / "00001.parquet").rename(real / "00003.parquet")
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=real)
    assert counts.kept == 30
    assert counts.detail["shards_without_stats"] == counts.detail["shards_without_table"] == 1
    assert counts.detail["gaps_in_numbering"] == 2
    # What the table would have said is in the JSON of each sample.
    assert rows(artifact)[0]["url"].endswith("/n01440764_tench.JPEG")
    assert rows(artifact)[0]["sha256"] == "98f7e89b26142f7bdb61f3a627dee89729b0bb07a29e9e7f3be9d394c00c6f01"


def test_an_unfinished_table_and_a_missing_tar_are_said(tmp_path: Path) -> None:
    write_shard(tmp_path / "in/00000.tar", 0, 2)
    (tmp_path / "in/00000.parquet").write_bytes(b"PAR1 and then nothing")
    write_table(tmp_path / "in/00001.parquet", ["00002", "00003"], status=["success", "failed_to_resize"])
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=tmp_path / "in")
    assert counts.kept == 2
    assert reasons(artifact) == {
        "00000.parquet": "unreadable_table",
        "00001/00002": "lost_from_shard",
        "00001/00003": "failed_to_resize_other",
    }
    assert counts.detail["shards_without_body"] == 1


def test_names_with_a_leading_dot_and_rows_that_occur_twice(tmp_path: Path) -> None:
    write_shard(tmp_path / "named/0.tar", 0, 2)
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "named/0.tar") as old, tarfile.open(tmp_path / "in/0.tar", "w") as new:
        for member in old:
            content = old.extractfile(member)
            member.name = f"./{member.name}"
            new.addfile(member, content)
    write_table(tmp_path / "in/0.parquet", ["00000", "00001", "00001"], caption=["a", "b", "c"])
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=tmp_path / "in")
    assert [(row["image_id"], row["caption"]) for row in rows(artifact)] == [("0/00000", "a"), ("0/00001", "b")]
    assert reasons(artifact) == {"0/00001": "repeated_key"}
    assert counts.read == 3


def test_odd_samples_are_counted_each_under_its_reason(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with TarWriter(str(tmp_path / "in/a.tar")) as tar:
        tar.write({"__key__": "1", "jpg": jpeg(1), "png": jpeg(2), "txt": ""})
        tar.write({"__key__": "2", "txt": "no picture"})
        tar.write({"__key__": "1", "jpg": jpeg(3)})
        tar.write({"__key__": "3", "jpg": b"<html>", "json": "{broken"})
        tar.write({"__key__": "4", "jpg": jpeg(4), "json": json.dumps({"caption": "of JSON", "url": "http://x/4"})})
        tar.write({"__key__": "n01440764_5", "jpg": jpeg(5), "cls": "17"})
        tar.write({"__key__": "6", "jpg": jpeg(6), "cls": "17"})
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=tmp_path / "in")
    assert reasons(artifact) == {
        "a/1.jpg": "repeated_key", "a/1.png": "extra_image", "a/2": "no_image", "a/3": "not_an_image",
    }  # fmt: skip
    found = {row["image_id"]: (row["caption"], row["url"], row["label"]) for row in rows(artifact)}
    assert found == {
        "a/1": (None, None, None),
        "a/4": ("of JSON", "http://x/4", None),
        "a/6": (None, None, "17"),
        "a/n01440764_5": (None, None, "n01440764"),
    }
    assert counts.read == 8


def test_a_picture_of_many_addresses_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with TarWriter(str(tmp_path / "in/00000.tar")) as tar:
        for number in range(20):
            tar.write({"__key__": f"{number:05d}", "jpg": jpeg(0 if number < 12 else number // 2)})
    settings = {"source": "webdataset", "path": tmp_path / "in"}
    counts, _ = ingested(tmp_path / "out", **settings)
    # 12 times the same, then 4 pictures twice each.
    assert counts.dropped == {"placeholder": 12, "duplicate": 4}
    assert counts.kept == 4
    assert counts.detail["shards"] == 1
    counts, _ = ingested(tmp_path / "never", **settings, placeholders=0)
    assert (counts.kept, counts.dropped) == (5, {"duplicate": 15})
    assert ingested(tmp_path / "strict", **(settings | {"placeholders": 12}))[0].dropped == {"duplicate": 15}
    assert listing_facts(IngestConfig(source="webdataset", path=tmp_path / "in"))["placeholders"] == 10


def test_subsets(tmp_path: Path) -> None:
    for shard in range(4):
        write_shard(tmp_path / f"in/{shard:05d}.tar", shard * 10, 10)
    settings = {"source": "webdataset", "path": tmp_path / "in"}

    def ids(**more: Any) -> list[str]:
        return [item.image_id for item in open_source(Config(path=tmp_path / "in", **more)).items()]

    assert ids(limit=3, draw="first") == ["00000/00000", "00000/00001", "00000/00002"]
    drawn = ids(limit=12)
    assert len(drawn) == 12
    assert drawn == sorted(drawn) == ids(limit=12)
    assert drawn != ids(limit=12, seed=1)
    assert len({one.partition("/")[0] for one in drawn}) > 1
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("00003/00030\n00001/00012\nelsewhere\n\n")
    counts, artifact = ingested(tmp_path / "out", **settings, ids=wanted)
    assert [row["image_id"] for row in rows(artifact)] == ["00001/00012", "00003/00030"]
    assert reasons(artifact) == {"elsewhere": "not_in_source"}
    assert (counts.read, counts.kept) == (3, 2)
    before = listing_facts(IngestConfig(**settings, ids=wanted))
    wanted.write_text("00003/00030\n")
    assert listing_facts(IngestConfig(**settings, ids=wanted)) != before
    wanted.write_text("\n")
    with pytest.raises(ValueError, match="is empty; write one image id per line"):
        listing_facts(IngestConfig(**settings, ids=wanted))


def test_a_draw_leaves_out_what_failed(tmp_path: Path) -> None:
    counts, _ = ingested(
        tmp_path / "out", source="webdataset", path=shared_data("cc3m_img2dataset/out_no"), images=34, placeholders=0
    )
    # 34 successes; a pixel and three repeated pictures among them.
    assert (counts.read, counts.kept) == (34, 30)


def test_classes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with TarWriter(str(tmp_path / "in/0.tar")) as tar:
        for number in range(6):
            tar.write({"__key__": f"n0144076{number % 2}_{number}", "jpg": jpeg(number)})
    counts, artifact = ingested(
        tmp_path / "out", source="webdataset", path=tmp_path / "in", classes=("n01440761", "n09999999")
    )
    assert [row["label"] for row in rows(artifact)] == ["n01440761"] * 3
    assert reasons(artifact) == {"n09999999": "no_such_class"}
    assert counts.kept == 3


def test_several_splits_in_one_folder(tmp_path: Path) -> None:
    write_shard(tmp_path / "in/cc3m-train-0000.tar", 0, 3)
    write_shard(tmp_path / "in/cc3m-train-0001.tar", 3, 3)
    write_shard(tmp_path / "in/cc3m-validation-0000.tar", 0, 2)
    settings = {"source": "webdataset", "path": tmp_path / "in"}
    with pytest.raises(ValueError, match=r"several splits: train, validation; choose one by split="):
        listing_facts(IngestConfig(**settings))
    with pytest.raises(ValueError, match="none of the shards is of the split 'tran'; did you mean 'train'"):
        listing_facts(IngestConfig(**settings, split="tran"))
    assert len(list(open_source(Config(path=tmp_path / "in", split="train")).items())) == 6
    assert len(list(open_source(Config(path=tmp_path / "in", split="val")).items())) == 2


def test_a_shard_named_as_a_folder_of_shards_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "cc.tar", 0, 1)
    write_shard(tmp_path / "cc/0.tar", 1, 1)
    with pytest.raises(ValueError, match="a shard 'cc' and a folder of that name with 'cc/0'; give one"):
        open_source(Config(path=tmp_path))
    assert len(list(open_source(Config(path=tmp_path / "cc.tar")).items())) == 1


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    (tmp_path / "00000.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"compressed, such as 00000\.tar\.gz; .*unpack to \.tar first"):
        open_source(Config(path=tmp_path))


def test_a_changed_shard_is_another_listing(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.tar", 0, 2)
    before = open_source(Config(path=tmp_path)).listing()
    assert before == open_source(Config(path=tmp_path)).listing()
    write_shard(tmp_path / "00000.tar", 0, 3)
    assert open_source(Config(path=tmp_path)).listing() != before
