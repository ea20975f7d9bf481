"""Lists and the files they name: TSV, LLaVA-Pretrain, FOIL."""

import json
import shutil
import zlib
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from data.sources import Item, load_source
from data.sources._listed import array_items
from tasks.ingest import IngestConfig, listing_facts
from tests.data.sources.ingesting import ingested, reasons, rows
from tests.data.sources.test_webdataset import jpeg
from tests.shared_data import shared_data


def items(source: str, **settings: Any) -> list[Item]:
    module = load_source(source)
    return list(module.open_source(module.Config(**settings)).items())  # type: ignore[call-arg]


def refused(found: list[Item]) -> dict[int, str]:
    return {int(item.image_id): item.refused[0] for item in found if item.refused is not None}


def write_files(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return folder


@pytest.mark.parametrize("name", ["cc3m.tsv", "cc3m_noheader.tsv"])
def test_the_real_list_and_its_files(tmp_path: Path, name: str) -> None:
    root = shared_data("cc3m_img2dataset")
    counts, artifact = ingested(tmp_path / "out", source="tsv", path=root / name, files=root / "www_source")
    # 39 rows: two dead links, four files that are no whole picture, three addresses again.
    assert counts.read == 39
    assert counts.dropped == {
        "duplicate": 3, "empty": 1, "image_missing": 2, "not_an_image": 1, "too_small": 1, "truncated": 1,
    }  # fmt: skip
    assert counts.detail["named_by"] == "name"
    first = rows(artifact)[0]
    assert (first["image_id"], first["caption"]) == ("000000000", "a photo of tench")
    assert first["url"].endswith("/n01440764_tench.JPEG")
    # The same images as img2dataset made of the list, by the digests of the originals.
    _, tars = ingested(tmp_path / "tars", source="webdataset", path=root / "out_no")
    assert {(row["url"], row["sha256"]) for row in rows(artifact)} == {
        (row["url"], row["sha256"]) for row in rows(tars)
    }


def test_bad_lines_and_ambiguous_names_are_counted(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_bytes(
        b"one\thttp://a/1.jpg\nno address\nlatin \xe9\thttp://a/2.jpg\n"
        b"x\thttp://a/same.jpg\ny\thttp://b/same.jpg\nagain\thttp://a/1.jpg?w=3\n\thttp://a/3.jpg\tlabels\n"
        b"up\thttp://a/..\n"
    )
    write_files(tmp_path, "1.jpg", "2.jpg", "same.jpg", "3.jpg")
    found = items("tsv", path=tmp_path)
    # 1.jpg is what two different addresses end in.
    assert refused(found) == {
        0: "ambiguous_name", 1: "bad_row", 2: "bad_row", 3: "ambiguous_name", 4: "ambiguous_name", 5: "ambiguous_name",
        7: "image_missing",
    }  # fmt: skip
    assert (found[6].caption, found[6].url) == (None, "http://a/3.jpg")


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("row_crc32", lambda row, url: f"{row}_{zlib.crc32(url)}"),
        ("crc32", lambda row, url: f"{zlib.crc32(url)}.jpg"),
        ("md5", lambda row, url: md5(url).hexdigest() + ".png"),
        ("name", lambda row, url: f"pic%20{row}.webp"),
    ],
)
def test_how_files_are_named_is_found_out(tmp_path: Path, rule: str, name: Any) -> None:
    urls = [f"http://host/pic%20{n}.webp" for n in range(4)]
    (tmp_path / "list.tsv").write_text("".join(f"caption {n}\t{url}\n" for n, url in enumerate(urls)))
    write_files(tmp_path / "files", *(name(n, url.encode()) for n, url in enumerate(urls[:3])))
    found = items("tsv", path=tmp_path / "list.tsv", files=tmp_path / "files")
    assert [item.caption for item in found[:3]] == ["caption 0", "caption 1", "caption 2"]
    assert refused(found) == {3: "image_missing"}
    module = load_source("tsv")
    source: Any = module.open_source(module.Config(path=tmp_path, files=tmp_path / "files"))  # type: ignore[call-arg]
    assert source.figures() == {"named_by": rule}


def test_a_header_may_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("url\tfile\tcaption\nhttp://a/1\tx/7.jpg\tseven\nhttp://a/2\t../up.jpg\tup\n")
    write_files(tmp_path, "in/x/7.jpg", "up.jpg")
    found = items("tsv", path=tmp_path, files=tmp_path / "in")
    assert (found[0].location, found[0].caption) == (tmp_path / "in/x/7.jpg", "seven")
    assert refused(found) == {1: "image_missing"}


def test_a_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("a\thttp://a/1.jpg\n")
    with pytest.raises(ValueError, match=r"none of the first 2000 rows .*names such as 1\.jpg, .*Set files="):
        items("tsv", path=tmp_path)
    with pytest.raises(NotADirectoryError, match="no folder of images at"):
        items("tsv", path=tmp_path, files=tmp_path / "gone")
    (tmp_path / "list.tsv").write_text("a,b\n")
    with pytest.raises(ValueError, match="expected caption TAB url"):
        items("tsv", path=tmp_path)
    (tmp_path / "other.tsv").touch()
    with pytest.raises(ValueError, match=r"2 lists, list\.tsv, other\.tsv; give one"):
        items("tsv", path=tmp_path)
    with pytest.raises(ValueError, match="did you mean source=webdataset"):
        items("tsv", path=shared_data("cc3m_img2dataset/out_no"))


def test_a_file_that_came_later_is_another_listing(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("a\thttp://a/1.jpg\nb\thttp://a/2.jpg\n")
    write_files(tmp_path, "1.jpg")
    config = IngestConfig(source="tsv", path=tmp_path)
    before = listing_facts(config)
    assert before["items"] == 2
    write_files(tmp_path, "2.jpg")
    assert listing_facts(config)["listing"] != before["listing"]


def llava(name: str, caption: object) -> dict[str, Any]:
    turns = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": caption}]
    return {"id": name, "image": f"00000/{name}.jpg", "conversations": turns}


def test_llava_pretrain(tmp_path: Path) -> None:
    entries = [llava("b", "the second"), llava("a", " the first "), {"id": "x"}, llava("c", None), llava("gone", "x")]
    table = tmp_path / "blip_laion_cc_sbu_558k.json"
    table.write_text(json.dumps(entries, indent=1))
    write_files(tmp_path / "images", "00000/a.jpg", "00000/b.jpg", "00000/c.jpg")
    found = items("llava_pretrain", path=tmp_path)
    assert [item.caption for item in found] == ["the second", "the first", None, None, None]
    assert refused(found) == {2: "bad_row", 4: "image_missing"}
    # The list with addresses comes first.
    meta = [{"id": "b", "image": "00000/b.jpg", "blip_caption": "a b", "url": "http://b"}]
    (tmp_path / "blip_laion_cc_sbu_558k_meta.json").write_text(json.dumps(meta))
    found = items("llava_pretrain", path=tmp_path)
    assert [(item.caption, item.url) for item in found] == [("a b", "http://b")]
    assert len(items("llava_pretrain", path=table)) == 5
    counts, artifact = ingested(tmp_path / "out", source="llava_pretrain", path=table, images=2, draw="first")
    assert [row["caption"] for row in rows(artifact)] == ["the second", "the first"]
    assert counts.read == 2


def test_a_long_list_is_read_entry_by_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.sources._listed._CHUNK", 7)
    entries = [{"n": n, "text": "ä, ]" * n} for n in range(30)]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False))
    assert list(array_items(path)) == entries
    path.write_text("[]")
    assert list(array_items(path)) == []
    path.write_text(json.dumps(entries)[:-20])
    with pytest.raises(ValueError, match=r"no whole JSON array: .*is its download complete\?"):
        list(array_items(path))
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no JSON array; it begins with"):
        list(array_items(path))


def annotation(number: int, image: int, caption: str, **foil: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "caption": caption, "foil": bool(foil), **foil}


FOIL = {
    "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}, {"id": 10, "file_name": "gone.jpg"}],
    "annotations": [
        annotation(1, 9, "A dog on a bench", target_word="ORIG", foil_word="ORIG") | {"foil": False},
        annotation(1, 9, "A cat on a bench", target_word="dog", foil_word="cat"),
        annotation(2, 9, "A red bench", target_word="ORIG", foil_word="ORIG") | {"foil": False},
        annotation(3, 9, "The wrong bus here", target_word="car", foil_word="bus"),  # its caption is not in the file
        annotation(4, 9, "bus and bus", target_word="car", foil_word="bus"),
        annotation(5, 10, "A sheep", target_word="cow", foil_word="sheep"),
        annotation(6, 11, "A bowl", target_word="cup", foil_word="bowl"),
    ],
}


def test_foil(tmp_path: Path) -> None:
    (tmp_path / "foilv1.0_train_2017.json").write_text(json.dumps(FOIL))
    write_files(tmp_path / "coco/train2014", "COCO_train2014_000000000009.jpg")
    counts, artifact = ingested(tmp_path / "out", source="foil", path=tmp_path, files=tmp_path / "coco")
    # One picture with two pairs of texts: neither is a duplicate of the other.
    assert [(row["image_id"], row["caption"], row["foil"]) for row in rows(artifact)] == [
        ("000000000", "A dog on a bench", "A cat on a bench"),
        ("000000001", "The wrong car here", "The wrong bus here"),
    ]
    assert len({row["sha256"] for row in rows(artifact)}) == 1
    assert reasons(artifact) == {"000000002": "bad_row", "000000003": "image_missing", "000000004": "bad_row"}
    assert counts.detail["captions_without_foil"] == 1
    shutil.copy(tmp_path / "foilv1.0_train_2017.json", tmp_path / "foilv1.0_test_2017.json")
    with pytest.raises(ValueError, match="several splits: test, train; choose one"):
        items("foil", path=tmp_path)
    assert len(items("foil", path=tmp_path, files=tmp_path / "coco", split="test")) == 5
    (tmp_path / "foilv1.0_test_2017.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not FOIL's file of annotations \(KeyError"):
        items("foil", path=tmp_path, split="test")
