"""ImageNet-1k as it lies on disks: ImageFolder (`train/<wnid>/`), Kaggle's layout, a flat folder of test images.

Ids are paths below the split's folder, classes are wnids: English names are no key, two of them belong to two classes.
"""

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from pydantic import Field

from data.keys import digest, file_digest
from data.sources._subset import Subset, wnid
from data.sources._wrong_root import wrong_root
from data.sources.folder import Config as FolderConfig
from data.sources.folder import Folder
from data.suggest import did_you_mean

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_ABOVE = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
_WNID = re.compile(r"n\d{8}")
_FLAT = re.compile(r"(?:ILSVRC2012_(?:val|test)_\d{8}|n\d{8}_.+)\.(?:jpe?g|png)", re.IGNORECASE)
_SYNSETS, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"


class Config(Subset):
    """Which split, and what of it."""

    path: Path = Field(description="the folder with train, val and test, or one of these, or Kaggle's top folder")
    split: str | None = Field(default=None, description="train, val or test, if the folder has several")


def open_source(config: Config) -> Folder:
    """The images of a split.

    Raises:
        FileNotFoundError, ValueError: if the folder has no such layout, a split has to be chosen, or a class is
            unknown or of two meanings.
    """
    root = config.path.expanduser()
    folder = _folder(root, config.split)
    solution, synsets = _beside(root, _SOLUTION), _beside(root, _SYNSETS)
    labels = _solution(solution) if solution is not None else {}
    names = _names(synsets) if synsets is not None else {}
    chosen = config.model_dump(exclude={"split"}) | {"path": folder, "classes": _wnids(config.classes, names)}
    salt = digest([file_digest(path) for path in (solution, synsets) if path is not None])
    return Folder(FolderConfig.model_validate(chosen), _labeller(folder, labels), salt)


def recognises(path: Path) -> str | None:
    """Folders named by wnids, or splits that hold such, or a flat folder of ILSVRC2012 files."""
    try:
        found = _splits(path) if path.is_dir() else {}
    except OSError:
        return None
    return f"ImageNet's {', '.join(sorted(found))}" if found else None


def _splits(root: Path) -> dict[str, Path]:
    """The folders of the splits; the root itself counts as one, named by what it holds."""
    for above in _ABOVE:
        folders = {split: root / above / split for split in ("train", "val", "test")}
        found = {split: folder for split, folder in folders.items() if folder.is_dir() and _holds(folder)}
        if found:
            return found
    return {"images": root} if _holds(root) else {}


def _holds(folder: Path) -> bool:
    """Whether a folder has class folders, or files named as ImageNet's; a look at its first entries."""
    for _, path in zip(range(100), folder.iterdir(), strict=False):
        if _WNID.fullmatch(path.name) or _FLAT.fullmatch(path.name):
            return True
    return False


def _folder(root: Path, split: str | None) -> Path:
    found = _splits(root) if root.is_dir() else {}
    if not found:
        expected = "class folders named by wnids (n01440764), train/val/test with such, or Kaggle's ILSVRC/Data/CLS-LOC"
        raise wrong_root(root, "imagenet", expected)
    if split is None:
        if len(found) > 1:
            raise ValueError(f"{root} has the splits {', '.join(sorted(found))}; choose one by split=...")
        return next(iter(found.values()))
    name = _SPLITS.get(split.lower(), split)
    if name not in found:
        raise ValueError(f"{root} has no split {split!r};{did_you_mean(split, found)}")
    return found[name]


def _beside(root: Path, name: str) -> Path | None:
    """Kaggle's file of a name: at the root, or in a folder above if the root is one of the data."""
    return next((folder / name for folder in (root, *root.resolve().parents[:4]) if (folder / name).is_file()), None)


def _solution(path: Path) -> Mapping[str, str]:
    """Wnid by image: `ImageId,PredictionString`, the string beginning with the wnid of the first box."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"ImageId", "PredictionString"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: found the columns {reader.fieldnames}; expected ImageId and PredictionString")
        labels = {row["ImageId"]: (row["PredictionString"] or "").partition(" ")[0] for row in reader}
    wrong = next((name for name, label in labels.items() if not _WNID.fullmatch(label)), None)
    if wrong is not None:
        raise ValueError(f"{path}: {wrong} has the class {labels[wrong]!r}; expected a wnid such as n01440764")
    return labels


def _names(path: Path) -> dict[str, list[str]]:
    """Wnids by English name in lower case: lines `n01440764 tench, Tinca tinca`."""
    names: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        label, _, words = line.partition(" ")
        for word in words.split(","):
            if word.strip():
                names.setdefault(word.strip().lower(), []).append(label)
    return names


def _wnids(classes: tuple[str, ...], names: Mapping[str, list[str]]) -> tuple[str, ...]:
    found = []
    for name in classes:
        of_name = [name] if _WNID.fullmatch(name) else names.get(name.lower(), [])
        if not of_name:
            hint = did_you_mean(name, names) if names else f" without {_SYNSETS} only wnids are understood"
            raise ValueError(f"no class of ImageNet is named {name!r};{hint}")
        if len(of_name) > 1:
            raise ValueError(f"{name!r} is the name of {len(of_name)} classes; give the wnid: {' or '.join(of_name)}")
        found += of_name
    return tuple(found)


def _labeller(folder: Path, labels: Mapping[str, str]) -> Callable[[str], str | None]:
    """The class folder decides; of a flat folder Kaggle's table does."""
    name = folder.resolve().name
    return lambda image_id: wnid(name, image_id) or labels.get(PurePosixPath(image_id).stem)
