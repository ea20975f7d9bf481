"""Everything that img2dataset wrote over one list of addresses, in all its forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.ingest import open_image
from tests.data.sources.ingesting import ingested, reasons, rows
from tests.shared_data import shared_data

LAYOUTS = {
    "out_no": "webdataset",
    "out_border": "webdataset",
    "out_keep_ratio": "webdataset",
    "out_files": "img2dataset_files",
}
# By the list and the originals, not by running the code: of 39 addresses two are dead, three are no whole images, one
# is a pixel, three repeat an earlier one.
DROPPED = {
    "duplicate": 3,
    "failed_to_download_http_404": 1,
    "failed_to_download_refused": 1,
    "failed_to_resize_empty": 1,
    "failed_to_resize_not_decodable": 2,
    "too_small": 1,
}


def layout(name: str) -> Path:
    return shared_data("cc3m_img2dataset") / name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("layouts")
    return {name: ingested(out / name, source=source, path=layout(name)) for name, source in LAYOUTS.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_addresses_originals_and_counts(made: dict[str, Any], name: str) -> None:
    counts, artifact = made[name]
    assert (counts.read, counts.kept, counts.dropped) == (39, 30, DROPPED)
    found = rows(artifact)
    first = rows(made["out_no"][1])
    # Keys number the rows of the list in every layout, though with other numbers of digits.
    assert [(row["url"], row["sha256"], row["caption"]) for row in found] == [
        (row["url"], row["sha256"], row["caption"]) for row in first
    ]
    assert found[0]["url"].endswith("/n01440764_tench.JPEG")
    assert found[0]["caption"] == "a photo of tench"
    assert sorted(reasons(artifact).values()) == sorted(
        reason for reason, count in DROPPED.items() for _ in range(count)
    )
    assert counts.detail["turned"] == 1


def test_digests_are_those_of_the_originals(made: dict[str, Any]) -> None:
    folder_counts, folder = ingested(
        Path(made["out_no"][1].path).parent / "www", source="folder", path=layout("www_source")
    )
    assert folder_counts.kept == 30
    originals = {row["image_id"]: row["sha256"] for row in rows(folder)}
    found = {row["url"].rpartition("/")[2]: row["sha256"] for row in rows(made["out_border"][1])}
    assert found == originals


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_lost_orientation_is_applied(made: dict[str, Any], name: str) -> None:
    artifact = made[name][1]
    row = next(row for row in rows(artifact) if row["url"].endswith("/exif6.jpg"))
    picture = open_image(artifact, row["uri"])
    with Image.open(layout("www_source") / "exif6.jpg") as original:
        upright = original.rotate(-90, expand=True).convert("RGB")
    if picture.width == picture.height:  # resize mode border: bars above and below
        picture = picture.crop((0, 43, 256, 213))
    else:
        assert picture.width > picture.height
    small = [np.asarray(one.resize((24, 16)), dtype=float) for one in (picture, upright)]
    assert np.abs(small[0] - small[1]).mean() < 12
    # On its side it would be another picture.
    assert np.abs(small[0] - small[1][::-1, ::-1]).mean() > 30


def test_an_image_in_a_tar_stays_there(made: dict[str, Any]) -> None:
    artifact = made["out_no"][1]
    row = rows(artifact)[0]
    assert row["uri"].startswith("span:")
    assert row["uri"].endswith("/out_no/00000.tar")
    assert open_image(artifact, row["uri"]).size == (500, 375) == (row["width"], row["height"])
    # Only what was turned is carried along.
    assert sorted(path.name for path in (artifact.path / "images").iterdir()) == ["0000000.tar"]


def test_white_bars_are_cut_off_on_request(made: dict[str, Any], tmp_path: Path) -> None:
    barred = {row["url"]: row for row in rows(made["out_border"][1])}
    assert {(row["width"], row["height"]) for row in barred.values()} == {(256, 256)}
    counts, artifact = ingested(tmp_path / "out", source="webdataset", path=layout("out_border"), trim=True)
    sizes = {row["url"].rpartition("/")[2]: (row["width"], row["height"]) for row in rows(artifact)}
    assert sizes["n01440764_tench.JPEG"] == (256, 192)  # of 500 x 375
    assert sizes["exif6.jpg"] == (256, 171)  # of 1200 x 1800, turned afterwards
    # Of 3000 x 20 two lines are left between the bars.
    assert counts.dropped == DROPPED | {"too_small": 2}
    assert (counts.detail["trimmed"], counts.detail["turned"]) == (29, 1)
    for row in rows(artifact):
        picture = np.asarray(open_image(artifact, row["uri"]))
        if row["url"].endswith("tench.JPEG"):
            assert picture[0].mean() < 235
            assert picture[-1].mean() < 235


@pytest.mark.parametrize("name", ["out_no", "out_keep_ratio"])
def test_where_there_are_no_bars_nothing_is_cut(tmp_path: Path, name: str) -> None:
    counts, _ = ingested(tmp_path / "out", source="webdataset", path=layout(name), trim=True)
    assert counts.dropped == DROPPED
    assert "trimmed" not in counts.detail


def test_the_wrong_source_is_told_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found .*\*\.jpg.*; expected the output folder of img2dataset"):
        ingested(tmp_path, source="img2dataset_files", path=layout("www_source"))
    with pytest.raises(ValueError, match=r"expected a folder of \.tar files.*did you mean source=img2dataset_files"):
        ingested(tmp_path, source="webdataset", path=layout("out_files"))
    with pytest.raises(ValueError, match=r"found .*did you mean source=webdataset \(for 2 \*\.tar\)"):
        ingested(tmp_path, source="img2dataset_files", path=layout("out_no"))
    with pytest.raises(FileNotFoundError, match="nothing at"):
        ingested(tmp_path, source="webdataset", path=tmp_path / "nowhere")
