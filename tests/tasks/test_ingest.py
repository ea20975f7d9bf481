"""Ingest: every file accounted for, nothing done twice, images readable wherever the store lies."""

import hashlib
import io
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from data.artifact import Artifact, Counts, read_table, seal
from data.config import Resources, StageConfig
from data.images import Checked
from data.images import check as real_check
from data.places import place_digest, place_of
from data.progress import reporting_to
from data.schemas import IMAGES, REJECTED
from data.sources import Item
from tasks.ingest import IngestConfig, ingest, listing_facts, open_image
from tests.shared_data import shared_data

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = Resources.model_validate({"workers": 2})

# Judged by eye and by `file`, not by running the code: every other file of www_source is a usable image.
FAULTY = {
    "empty.jpg": "empty",
    "html.jpg": "not_an_image",
    "pixel.gif": "too_small",  # 1 x 1
    "trunc.jpg": "truncated",  # the lower half of a JPEG is missing
}
# Odd, but usable: sizes after EXIF orientation.
ODD = {
    "alpha.png": (400, 500),
    "anim.gif": (400, 500),
    "banner.jpg": (3000, 20),
    "cmyk.jpg": (400, 500),
    "exif6.jpg": (1800, 1200),  # stored as 1200 x 1800
    "gray.jpg": (400, 500),
    "pal.png": (400, 500),
    "png_named.jpg": (400, 500),
    "sixteen.png": (400, 500),
    "w.webp": (400, 500),
}


def png(seed: int, side: int = 16) -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def photos(root: Path, count: int) -> Path:
    root.mkdir(parents=True)
    for n in range(count):
        (root / f"{n:03d}.png").write_bytes(png(n))
    return root


def run(out: Path, config: IngestConfig) -> tuple[Counts, Artifact]:
    """The stage's function alone, and its folder sealed."""
    out.mkdir(parents=True, exist_ok=True)
    facts = listing_facts(config)
    counts = ingest.fn(out, config, facts=facts, resources=RESOURCES)
    return counts, seal(out, counts, stage="ingest", facts=facts)


def from_folder(path: Path, images: int | None = None, seed: int = 0) -> IngestConfig:
    return IngestConfig(source="folder", path=path, images=images, seed=seed)


def reasons(artifact: Artifact) -> dict[str, str]:
    rows = artifact.read(REJECTED, "rejected.parquet").to_pylist()
    assert all(row["stage"] == "ingest" and row["detail"] for row in rows)
    assert [row["row_id"] for row in rows] == sorted(row["row_id"] for row in rows)
    return {row["row_id"]: row["reason"] for row in rows}


def kept(artifact: Artifact) -> list[str]:
    ids: list[str] = artifact.read(IMAGES, "images.parquet")["image_id"].to_pylist()
    assert ids == sorted(set(ids))
    return ids


def test_the_real_faulty_files(tmp_path: Path) -> None:
    folder = shared_data("cc3m_img2dataset/www_source")
    counts, artifact = run(tmp_path / "out", from_folder(folder))
    # 34 files: 20 photos, 10 odd but usable ones, 4 faulty ones.
    assert counts.read == 34
    assert counts.kept == counts.written == 30
    assert counts.dropped == {"empty": 1, "not_an_image": 1, "too_small": 1, "truncated": 1}
    assert reasons(artifact) == FAULTY
    rows = {row["image_id"]: row for row in artifact.read(IMAGES, "images.parquet").to_pylist()}
    assert {name: (rows[name]["width"], rows[name]["height"]) for name in ODD} == ODD
    assert rows["n01440764_tench.JPEG"]["label"] == "n01440764"
    assert rows["cmyk.jpg"]["label"] is None
    assert counts.detail == {"labelled": 20, "classes": 20}
    for row in rows.values():
        picture = open_image(artifact, row["uri"])
        assert (picture.mode, picture.size) == ("RGB", (row["width"], row["height"]))
        assert row["sha256"] == hashlib.sha256((folder / row["image_id"]).read_bytes()).hexdigest()


def test_the_real_turned_photos(tmp_path: Path) -> None:
    counts, artifact = run(tmp_path / "out", from_folder(shared_data("exif_orientation")))
    assert counts.read == 19
    assert counts.dropped == {"not_an_image": 1}
    assert reasons(artifact) == {"LICENSE": "not_an_image"}
    sizes = {
        (row["image_id"].split("_")[0], row["width"], row["height"])
        for row in artifact.read(IMAGES, "images.parquet").to_pylist()
    }
    assert sizes == {("Landscape", 1800, 1200), ("Portrait", 1200, 1800)}


def test_the_real_photos(tmp_path: Path) -> None:
    counts, _ = run(tmp_path / "out", from_folder(shared_data("images")))
    assert (counts.read, counts.kept, counts.dropped) == (400, 400, {})
    assert counts.detail == {"labelled": 400, "classes": 200}


def test_of_the_same_bytes_the_first_by_id_is_kept(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", 3)
    (folder / "a").mkdir()
    for name in ("a/copy.png", "0.png", "zz.png"):
        (folder / name).write_bytes(png(1))
    (folder / "bad 1.jpg").write_bytes(b"no image")
    (folder / "bad 2.jpg").write_bytes(b"no image")
    counts, artifact = run(tmp_path / "out", from_folder(folder))
    assert kept(artifact) == ["0.png", "000.png", "002.png"]
    assert reasons(artifact) == {
        "001.png": "duplicate",
        "a/copy.png": "duplicate",
        "bad 1.jpg": "not_an_image",  # its own fault comes first
        "bad 2.jpg": "not_an_image",
        "zz.png": "duplicate",
    }
    assert counts.dropped == {"duplicate": 3, "not_an_image": 2}
    details = artifact.read(REJECTED, "rejected.parquet")["detail"].to_pylist()
    assert details[0] == "the same bytes as 0.png"


def test_what_a_folder_refuses_is_counted(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", 2)
    (folder / ".hidden.png").write_bytes(png(9))
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop").symlink_to(".")
    (folder / "notes.txt").write_text("a caption")
    with open(bytes(folder) + b"/caf\xe9.png", "wb") as stream:
        stream.write(png(10))
    counts, artifact = run(tmp_path / "out", from_folder(folder))
    assert reasons(artifact) == {
        ".hidden.png": "hidden",
        "caf\\xe9.png": "bad_name",
        "gone.png": "unreadable",
        "loop/": "unreadable",
        "notes.txt": "not_an_image",
    }
    assert (counts.read, counts.kept) == (7, 2)


def test_a_draw_reads_only_what_it_drew(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", 20)
    (folder / "notes.txt").write_text("a caption")
    config = from_folder(folder, images=5)
    counts, artifact = run(tmp_path / "out", config)
    assert (counts.read, counts.kept) == (5, 5)
    assert listing_facts(config)["items"] == 5
    assert kept(artifact) != kept(run(tmp_path / "other", from_folder(folder, images=5, seed=1))[1])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("part", [1, 7, 1000])
def test_neither_workers_nor_parts_change_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, part: int
) -> None:
    folder = photos(tmp_path / "in", 8)
    (folder / "zz.png").write_bytes(png(0))
    config = from_folder(folder)
    expected = run(tmp_path / "first", config)[1]
    monkeypatch.setattr("tasks.verify.PART", part)
    out = tmp_path / "out"
    counts = ingest.fn(
        out, config, facts=listing_facts(config), resources=Resources.model_validate({"workers": workers})
    )
    assert counts.dropped == {"duplicate": 1}
    for name in ("images.parquet", "rejected.parquet"):
        assert (out / name).read_bytes() == expected.file(name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["images.parquet", "rejected.parquet"]


KILLED = """
import os, signal, sys
from pathlib import Path
import tasks.verify as verifying
from tasks.ingest import ingest, listing_facts
from tests.tasks.test_ingest import RESOURCES, from_folder

real, seen = verifying.check, []

def check(content):
    seen.append(content)
    if len(seen) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(content)

verifying.check = check
verifying.PART = 4
out, folder = map(Path, sys.argv[1:])
config = from_folder(folder)
ingest.fn(out, config, facts=listing_facts(config), resources=RESOURCES)
"""


def test_after_kill_9_finished_parts_are_not_verified_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = photos(tmp_path / "in", 14), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(out), str(folder)]
    assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == -signal.SIGKILL
    # The tenth image of parts of four was in hand: two parts are whole.
    assert len(list((out / "parts").glob("*.parquet"))) == 2
    checked: list[Path] = []

    def check(content: Path) -> Checked:
        checked.append(content)
        return real_check(content)

    monkeypatch.setattr("tasks.verify.check", check)
    monkeypatch.setattr("tasks.verify.PART", 4)
    config = from_folder(folder)
    reported = Reported()
    with reporting_to(reported):
        counts = ingest.fn(out, config, facts=listing_facts(config), resources=RESOURCES)
    assert counts.kept == 14
    assert sorted(path.name for path in checked) == [f"{n:03d}.png" for n in range(8, 14)]
    assert (reported.total, reported.unit, reported.done, reported.advanced) == (14, "images", 8, 6)
    monkeypatch.undo()
    _, expected = run(tmp_path / "expected", config)
    assert read_table(out / "images.parquet", IMAGES) == expected.read(IMAGES, "images.parquet")


class Reported:
    """Receives the progress of one phase."""

    advanced = 0

    def phase(self, total: int | None, unit: str, done: int) -> "Reported":
        self.total, self.unit, self.done = total, unit, done
        return self

    def __enter__(self) -> "Reported":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, units: int) -> None:
        self.advanced += units


def test_parts_of_other_files_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = photos(tmp_path / "in", 3), tmp_path / "out"
    config = from_folder(folder)
    monkeypatch.setattr("tasks.ingest.merge", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ingest.fn(out, config, facts=listing_facts(config), resources=RESOURCES)
    monkeypatch.undo()
    (folder / "002.png").rename(folder / "renamed.png")
    counts = ingest.fn(out, config, facts=listing_facts(config), resources=RESOURCES)
    assert counts.kept == 3
    assert read_table(out / "images.parquet", IMAGES)["image_id"].to_pylist() == ["000.png", "001.png", "renamed.png"]


def test_a_folder_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", 3)
    config = from_folder(folder)
    facts = listing_facts(config)
    (folder / "new.png").write_bytes(png(9))
    with pytest.raises(RuntimeError, match="changed while they were read; run again"):
        ingest.fn(tmp_path / "out", config, facts=facts, resources=RESOURCES)


def test_no_usable_image_is_an_error_that_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("a caption")
    (folder / "b.txt").write_text("a caption")
    (folder / "c.jpg").touch()
    with pytest.raises(
        ValueError, match=r"none of the 3 files in .*in is a usable image: 1 empty \(.*c.jpg.*\); 2 not_an"
    ):
        run(tmp_path / "out", from_folder(folder))


def test_errors_of_the_folder_come_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").touch()
    for name, error in (("missing", FileNotFoundError), ("file.jpg", NotADirectoryError), ("empty", ValueError)):
        with pytest.raises(error):
            listing_facts(from_folder(tmp_path / name))


def test_the_configuration_must_suit_its_source(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"source=folder needs path=\.\.\."):
        IngestConfig(source="folder")
    with pytest.raises(ValidationError, match="no source 'foldr'; did you mean 'folder'"):
        IngestConfig(source="foldr", path=tmp_path)
    with pytest.raises(ValidationError, match="source=tiny_world reads no path"):
        IngestConfig(path=tmp_path)
    with pytest.raises(ValidationError, match="source=folder has no setting 'split', but split=train is given"):
        IngestConfig(source="folder", path=tmp_path, split="train")
    with pytest.raises(ValidationError, match="source=imagenet has no setting 'trim'"):
        IngestConfig(source="imagenet", path=tmp_path, trim=True)
    assert IngestConfig().source == "tiny_world"


# Sources whose images are no files.


class WorldConfig(StageConfig):
    images: int = 5
    seed: int = 0


class World:
    """Images made on the spot, with captions."""

    def __init__(self, config: WorldConfig) -> None:
        self._config = config

    def listing(self) -> str:
        return f"world of {self._config.images}, seed {self._config.seed}"

    def items(self) -> Iterator[Item]:
        for n in range(self._config.images):
            yield Item(f"scene-{n:03d}", None, png(n), None, f"scene number {n}")
        yield Item("strange/id:ä", None, png(1000), None, None)
        yield Item("tiny", None, png(1001, side=5), None, None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(Config=WorldConfig, open_source=World)
    monkeypatch.setattr("tasks.ingest.load_source", lambda name: module)


@pytest.mark.usefixtures("world")
def test_images_without_files_are_stored_and_survive_a_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.verify.PART", 3)
    counts, artifact = run(tmp_path / "out", IngestConfig(source="world", images=7))
    assert (counts.read, counts.kept, counts.dropped) == (9, 8, {"too_small": 1})
    rows = artifact.read(IMAGES, "images.parquet").to_pylist()
    # Blocks of 512 bytes: a header, then the picture.
    assert rows[0]["uri"] == f"span:512+{len(png(0))}:images/0000000.tar"
    assert [row["uri"].rpartition(":")[2] for row in rows] == [f"images/000000{n // 3}.tar" for n in range(8)]
    assert rows[7]["image_id"] == "strange/id:ä"
    assert rows[3]["caption"] == "scene number 3"
    stored = sorted(path.name for path in (artifact.path / "images").iterdir())
    assert stored == ["0000000.tar", "0000001.tar", "0000002.tar"]
    members = []
    for name in stored:
        with tarfile.open(artifact.path / "images" / name) as tar:
            members += tar.getnames()
    assert members == [f"0000{n}.png" for n in (0, 1, 2, 0, 1, 2, 0, 1)]  # the small one is not stored
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    moved = Artifact(tmp_path / "elsewhere", "ingest", artifact.key)
    for row in rows:
        assert open_image(moved, row["uri"]).size == (16, 16)
        assert place_digest(place_of(row["uri"], moved.path)) == row["sha256"]


@pytest.mark.usefixtures("world")
def test_stored_images_of_finished_parts_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = IngestConfig(source="world", images=7)
    expected = run(tmp_path / "expected", config)[1]
    monkeypatch.setattr("tasks.ingest.merge", lambda *parts: 1 / 0)
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        run(out, config)
    monkeypatch.undo()
    module = SimpleNamespace(Config=WorldConfig, open_source=World)
    monkeypatch.setattr("tasks.ingest.load_source", lambda name: module)
    monkeypatch.setattr("tasks.verify.check", lambda content: 1 / 0)
    assert run(out, config)[1].manifest["files"] == expected.manifest["files"]


@pytest.mark.usefixtures("world")
def test_number_and_seed_reach_the_world() -> None:
    assert listing_facts(IngestConfig(source="world", images=7, seed=3)) == {"listing": "world of 7, seed 3"}


def test_ids_that_do_not_rise_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(World):
        def items(self) -> Iterator[Item]:
            yield Item("a", None, png(0), None, None)
            yield Item("a", None, png(1), None, None)

    module = SimpleNamespace(Config=WorldConfig, open_source=Doubled)
    monkeypatch.setattr("tasks.ingest.load_source", lambda name: module)
    with pytest.raises(ValueError, match="gave image 'a' after 'a'; ids must rise"):
        run(tmp_path / "out", IngestConfig(source="world"))


def test_the_stage_caches_by_the_folder_s_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    folder = photos(tmp_path / "in", 3)
    config = from_folder(folder)
    first = ingest.make(config, resources=RESOURCES)
    assert first.state == "ran"
    assert ingest.make(config, resources=Resources.model_validate({"workers": 1})).state == "cached"
    (folder / "new.png").write_bytes(png(9))
    second = ingest.make(config, resources=RESOURCES)
    assert second.state == "ran"
    assert second.artifact.counts.kept == 4
    assert sorted(second.artifact.manifest["files"]) == ["images.parquet", "rejected.parquet"]
    assert second.artifact.manifest["facts"]["items"] == 4
