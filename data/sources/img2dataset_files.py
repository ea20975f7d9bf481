"""img2dataset's output as files: folders 00000/ of .jpg, .txt and .json, each with a table 00000.parquet beside it."""

import os
from pathlib import Path

from data.sources._shards import Index, Shard, Shards, ShardsConfig
from data.sources._wrong_root import wrong_root

DOWNLOADED = True


class Config(ShardsConfig):
    """Which folders to read."""


def open_source(config: Config) -> Shards:
    """The numbered folders, and the tables beside them.

    Raises:
        FileNotFoundError, ValueError: if there is none.
    """
    root = config.path.expanduser()
    names = _names(root) if root.is_dir() else set()
    if not any((root / name).is_dir() for name in names):
        expected = "the output folder of img2dataset, with folders 00000, 00001, ... of images"
        raise wrong_root(root, "img2dataset_files", expected)
    base = root.resolve()
    return Shards(config, [_shard(base, name) for name in names], read_folder)


def recognises(path: Path) -> str | None:
    """Numbered folders with tables of the same name."""
    if not path.is_dir():
        return None
    count = sum((path / f"{name}.parquet").is_file() and (path / name).is_dir() for name in _names(path))
    return "numbered folders with a table beside each" if count else None


def _names(root: Path) -> set[str]:
    """Names of folders and tables that img2dataset may have written: digits."""
    kinds = ((".parquet", Path.is_file), ("", Path.is_dir))
    return {
        path.stem for path in root.iterdir() for suffix, fits in kinds if path.suffix == suffix and fits(path)
        if path.stem.isdecimal()
    }  # fmt: skip


def _shard(base: Path, name: str) -> Shard:
    body, table, stats = base / name, base / f"{name}.parquet", base / f"{name}_stats.json"
    return Shard(
        name,
        body if body.is_dir() else None,
        table if table.is_file() else None,
        stats if stats.is_file() else None,
    )


def read_folder(path: Path) -> Index:
    """The files of a shard's folder by key; raises OSError."""
    index = Index()
    for name in sorted(os.listdir(path)):
        index.add(name, path / name)
    return index
