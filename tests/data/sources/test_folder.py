"""A folder of files as a source of images."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from data.sources import Item, load_source
from data.sources.folder import Config, Folder, open_source
from tests.shared_data import shared_data


def fill(root: Path, *names: str) -> Path:
    """Files with their own name as content."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def items(root: Path, limit: int | None = None, seed: int = 0) -> list[Item]:
    return list(open_source(Config(path=root, limit=limit, seed=seed)).items())


def ids(root: Path, limit: int | None = None, seed: int = 0) -> list[str]:
    return [item.image_id for item in items(root, limit, seed)]


def listing(root: Path, limit: int | None = None) -> str:
    return open_source(Config(path=root, limit=limit)).listing()


def test_ids_are_relative_paths_in_order(tmp_path: Path) -> None:
    # "." sorts before "/": what lies in folder a comes after a.jpg, though "a" alone would come before.
    fill(tmp_path, "b.JPG", "a/z.png", "a.jpg", "a/b/c.webp", "a-1.jpg", "ä.jpg", "no_suffix")
    found = ids(tmp_path)
    assert found == ["a-1.jpg", "a.jpg", "a/b/c.webp", "a/z.png", "b.JPG", "no_suffix", "ä.jpg"]
    assert found == sorted(found)
    assert len(open_source(Config(path=tmp_path))) == 7


def test_an_item_says_where_its_file_is(tmp_path: Path) -> None:
    fill(tmp_path, "a/z.png")
    assert items(tmp_path) == [Item("a/z.png", tmp_path / "a/z.png", None, None, None)]


def test_every_file_counts_whatever_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "1.json", "1.txt", "list.parquet")
    assert ids(tmp_path) == ["1.jpg", "1.json", "1.txt", "list.parquet"]


def test_hidden_files_and_folders_are_refused_at_sight(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", ".DS_Store", "._a.jpg", ".git/1.jpg", ".git/2.jpg", "b/.thumbnails/1.jpg")
    found = {item.image_id: item.refused and item.refused[0] for item in items(tmp_path)}
    assert found == {
        "a.jpg": None,
        ".DS_Store": "hidden",
        "._a.jpg": "hidden",
        ".git/": "hidden",
        "b/.thumbnails/": "hidden",
    }


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, "photos/a.jpg", "photos/b/c.jpg")
    (tmp_path / "photos/again").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/b/up").symlink_to("..")
    (tmp_path / "photos/self.jpg").symlink_to("self.jpg")
    (tmp_path / "photos/gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "photos/linked.jpg").symlink_to("a.jpg")
    (tmp_path / "other").symlink_to(tmp_path / "photos/b")
    found = {item.image_id: item.refused and item.refused[0] for item in items(tmp_path)}
    assert found == {
        "other/c.jpg": None,
        # By way of "other" this is not the folder's own parent at first; one round shows it.
        "other/up/a.jpg": None,
        "other/up/again/": "unreadable",
        "other/up/b/": "unreadable",
        "other/up/gone.jpg": None,
        "other/up/linked.jpg": None,
        "other/up/self.jpg": None,
        "photos/a.jpg": None,
        "photos/again/": "unreadable",
        "photos/b/c.jpg": None,
        "photos/b/up/": "unreadable",
        "photos/gone.jpg": None,  # whoever opens it finds nothing
        "photos/linked.jpg": None,
        "photos/self.jpg": None,
    }


def test_names_that_are_not_utf8_are_refused_not_fatal(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    latin = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(latin)
    for name in (latin + b"/x.jpg", latin + b".jpg"):
        with open(name, "wb") as stream:
            stream.write(b"x")
    found = {item.image_id: item.refused and item.refused[0] for item in items(tmp_path)}
    assert found == {"a.jpg": None, "caf\\xe9.jpg": "bad_name", "caf\\xe9/": "bad_name"}
    assert listing(tmp_path)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("n01440764/n01440764_18.JPEG", "n01440764"),
        ("train/n01440764/x.jpg", "n01440764"),
        ("train/n01440764/images/x.jpg", "n01440764"),
        ("n01443537_11099_goldfish.jpg", "n01443537"),
        ("n02012849/n03126707_1.jpg", "n02012849"),  # the folder decides; the two "crane" stay apart
        ("val/ILSVRC2012_val_00000001.JPEG", None),
        ("crane/1.jpg", None),
        ("n0144/1.jpg", None),
        ("n014407641/1.jpg", None),
        ("n01440764.jpg", None),
        ("xn01440764_1.jpg", None),
    ],
)
def test_labels_are_wnids(tmp_path: Path, name: str, label: str | None) -> None:
    fill(tmp_path, name)
    assert [item.label for item in items(tmp_path)] == [label]


def test_the_folder_itself_may_be_the_class(tmp_path: Path) -> None:
    fill(tmp_path / "n01440764", "1.jpg", "deeper/2.jpg")
    assert [item.label for item in items(tmp_path / "n01440764")] == ["n01440764", "n01440764"]


def test_a_draw_is_seeded_and_changes_least(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{n:03d}.jpg" for n in range(200)))
    drawn = ids(tmp_path, limit=50)
    assert len(drawn) == 50
    assert drawn == sorted(drawn) == ids(tmp_path, limit=50)
    assert drawn != ids(tmp_path, limit=50, seed=1)
    assert set(drawn) < set(ids(tmp_path, limit=60))
    fill(tmp_path, "new.jpg")
    assert len(set(drawn) - set(ids(tmp_path, limit=50))) <= 1
    assert len(ids(tmp_path, limit=1000)) == 201


def test_a_draw_takes_files_that_may_be_images(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "1.json", "1.txt", "2.JPEG", "2.JSON", "3", ".4.jpg")
    assert ids(tmp_path, limit=10) == ["1.jpg", "2.JPEG", "3"]


def test_the_listing_tells_what_matters(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b/c.jpg")
    before = listing(tmp_path)
    assert before == listing(tmp_path)
    fill(tmp_path, "new.jpg")
    more = listing(tmp_path)
    (tmp_path / "new.jpg").unlink()
    assert listing(tmp_path) == before
    (tmp_path / "a.jpg").write_text("other content")
    longer = listing(tmp_path)
    os.utime(tmp_path / "b/c.jpg", ns=(0, 1))
    assert len({before, more, longer, listing(tmp_path)}) == 4


def test_the_listing_of_a_draw_ignores_what_was_not_drawn(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{n:03d}.jpg" for n in range(50)))
    before, drawn = listing(tmp_path, limit=5), ids(tmp_path, limit=5)
    rest = sorted(set(ids(tmp_path)) - set(drawn))
    (tmp_path / rest[0]).write_text("other content")
    assert listing(tmp_path, limit=5) == before
    (tmp_path / drawn[0]).write_text("other content")
    assert listing(tmp_path, limit=5) != before


def test_a_moved_folder_has_another_listing(tmp_path: Path) -> None:
    """Its images are read where they are, so the rows must be written again."""
    before = listing(fill(tmp_path / "here", "a.jpg"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert listing(tmp_path / "there") != before


def test_what_is_no_folder_is_said_clearly(tmp_path: Path) -> None:
    fill(tmp_path, "file.jpg")
    (tmp_path / "empty/nested").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no folder at .*missing.*give the folder of images"):
        open_source(Config(path=tmp_path / "missing"))
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        open_source(Config(path=tmp_path / "file.jpg"))
    with pytest.raises(ValueError, match=r"there is no file in .*empty"):
        listing(tmp_path / "empty")
    fill(tmp_path / "texts", "a.txt")
    with pytest.raises(ValueError, match="no file that may be an image"):
        listing(tmp_path / "texts", limit=3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_locked_folder_is_said_clearly(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "locked").chmod(0)
    try:
        assert [item.refused and item.refused[0] for item in items(tmp_path)] == [None, "unreadable"]
        with pytest.raises(PermissionError, match="may not list"):
            open_source(Config(path=tmp_path / "locked"))
    finally:
        (tmp_path / "locked").chmod(0o755)


def test_a_folder_that_vanishes_during_the_walk_is_one_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("data.sources.folder.os.scandir", scandir)
    assert [(item.image_id, item.refused) for item in items(tmp_path)] == [
        ("a/", ("unreadable", "Permission denied")),
        ("b/2.jpg", None),
    ]


def test_the_real_photos_are_of_200_classes() -> None:
    found = items(shared_data("images"))
    assert len(found) == 400
    assert len({item.label for item in found}) == 200


def test_a_source_is_found_by_its_file_name(tmp_path: Path) -> None:
    module = load_source("folder")
    source = module.open_source(module.Config(path=fill(tmp_path, "a.jpg")))  # type: ignore[call-arg]
    assert isinstance(source, Folder)
    with pytest.raises(LookupError, match="no source 'folders'; did you mean 'folder'"):
        load_source("folders")
    with pytest.raises(ValidationError):
        module.Config(path=tmp_path, limits=3)  # type: ignore[call-arg]
