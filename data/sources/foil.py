"""FOIL-COCO: pictures of COCO 2014 with a caption, and the same caption with one noun exchanged for a wrong one.

Each pair of caption and foil is an item, so that a picture has several; the foil is carried along as a hard negative.
Ids are the numbers of the foils in the file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from data.sources import Item
from data.sources._listed import Listed, ListedConfig, bad_row, inside, missing, row_id
from data.sources._splits import of_split
from data.sources._wrong_root import wrong_root

_FOLDERS = ("", "train2014", "val2014", "images", "images/train2014", "images/val2014")


class Config(ListedConfig):
    """Which file, and where COCO's images are."""

    split: str | None = Field(default=None, description="train or test, if the folder has both files")


class _Foils:
    """The annotations of one file."""

    def __init__(self, table: Path, folder: Path) -> None:
        """Read the file.

        Raises:
            ValueError: if it is not FOIL's.
        """
        self._folder = folder
        try:
            found = json.loads(table.read_text(encoding="utf-8"))
            annotations, images = found["annotations"], found["images"]
            self._files = {image["id"]: str(image["file_name"]) for image in images}
            self._captions = {(a["id"], a["image_id"]): str(a["caption"]) for a in annotations if not a["foil"]}
            self._foils: list[Mapping[str, Any]] = [one for one in annotations if one["foil"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{table} is not FOIL's file of annotations ({type(error).__name__}: {error}); expected images with id"
                " and file_name, annotations with id, image_id, caption and foil. Is its download complete?"
            ) from error

    def rows(self) -> Iterator[Item]:
        """Every foil, with the caption it was made from."""
        for row, foil in enumerate(self._foils):
            yield self._item(row, foil)

    def figures(self) -> Mapping[str, JsonValue]:
        """How many captions there are of which no foil was made; they are no items."""
        foiled = {(foil["id"], foil["image_id"]) for foil in self._foils}
        return {"captions_without_foil": len(self._captions.keys() - foiled)}

    def _item(self, row: int, foil: Mapping[str, Any]) -> Item:
        caption = self._captions.get((foil["id"], foil["image_id"])) or _undone(foil)
        if caption is None or caption == foil["caption"]:
            return bad_row(row, f"the caption that {foil['caption']!r} was made from cannot be told")
        name = self._files.get(foil["image_id"])
        if name is None:
            return bad_row(row, f"the file's list of images has no {foil['image_id']}")
        place = next((path for folder in _FOLDERS if (path := inside(self._folder / folder, name)) is not None), None)
        if place is None:
            return missing(row, name)
        return Item(row_id(row), place, None, None, caption.strip(), foil=str(foil["caption"]).strip(), repeats=True)


def _undone(foil: Mapping[str, Any]) -> str | None:
    """The caption with the right word back in its place, if there is one place."""
    right, wrong, text = foil.get("target_word"), foil.get("foil_word"), str(foil["caption"])
    if not isinstance(right, str) or not isinstance(wrong, str) or not wrong or text.count(wrong) != 1:
        return None
    return text.replace(wrong, right)


def open_source(config: Config) -> Listed:
    """FOIL's file at a path, or the one of the split in a folder.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: if there is no such file, or several, or no folder of images.
    """
    root = config.path.expanduser()
    found = [root] if root.is_file() and root.suffix == ".json" else _files(root)
    if not found:
        raise wrong_root(root, "foil", "foilv1.0_train_2017.json, or the folder that holds it")
    table = of_split(found, lambda path: path.name, config.split, "files")[0]
    foils = _Foils(table, config.folder(table))
    return Listed(config, table, foils.rows, foils.figures)


def recognises(path: Path) -> str | None:
    """FOIL's files by their names."""
    return "FOIL's annotations" if path.is_dir() and _files(path) else None


def _files(root: Path) -> list[Path]:
    return sorted(root.glob("foilv1.0_*.json"))
