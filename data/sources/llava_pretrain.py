"""LLaVA-Pretrain: `blip_laion_cc_sbu_558k.json` (or `_meta.json`, which has the addresses) and its images.

The caption is the answer of each conversation. Ids are the numbers of the entries; the list is read entry by entry.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.sources import Item
from data.sources._listed import Listed, ListedConfig, array_items, bad_row, inside, missing, row_id
from data.sources._wrong_root import wrong_root


class Config(ListedConfig):
    """Which list, and where its files are."""


def open_source(config: Config) -> Listed:
    """The list at a path, or the one in a folder.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: if there is no list, or no folder of images.
    """
    root = config.path.expanduser()
    table = root if root.is_file() and root.suffix == ".json" else _list(root)
    if table is None:
        raise wrong_root(root, "llava_pretrain", "blip_laion_cc_sbu_558k.json, or the folder that holds it and images/")
    folder = config.folder(table)
    # images.zip is unpacked into images/ by some, beside the list by others.
    return Listed(config, table, lambda: _rows(table, [folder, folder / "images"]))


def recognises(path: Path) -> str | None:
    """LLaVA's list by its name."""
    return "the list of LLaVA-Pretrain" if path.is_dir() and _list(path) is not None else None


def _list(root: Path) -> Path | None:
    """The list with addresses, if it is there: the other one has the same captions."""
    for pattern in ("blip_laion_cc_sbu*_meta.json", "blip_laion_cc_sbu*.json", "chat.json", "metadata.json"):
        found = sorted(root.glob(pattern))
        if found:
            return found[0]
    return None


def _rows(table: Path, folders: list[Path]) -> Iterator[Item]:
    for row, entry in enumerate(array_items(table)):
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            yield bad_row(row, f"want an object with `image`, found {str(entry)[:80]}")
            continue
        name = entry["image"]
        place = next((path for folder in folders if (path := inside(folder, name)) is not None), None)
        url = entry.get("url") if isinstance(entry.get("url"), str) else None
        yield missing(row, name) if place is None else Item(row_id(row), place, None, None, _caption(entry), url=url)


def _caption(entry: Mapping[str, Any]) -> str | None:
    turns = entry.get("conversations")
    spoken = turns if isinstance(turns, list) else []
    answers = [turn.get("value") for turn in spoken if isinstance(turn, dict) and turn.get("from") == "gpt"]
    for text in (*answers[:1], entry.get("blip_caption"), entry.get("caption")):
        if isinstance(text, str) and text.strip():
            return text.strip()
    return None
