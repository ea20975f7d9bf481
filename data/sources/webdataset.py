"""Tars of samples (.jpg, .txt, .json), as img2dataset and WebDataset write them: CC3M, CC12M, ...

Of each tar the list of its members is read, in whatever order they are, and images are then read where they lie, by
several threads. So a tar that ends early gives every whole sample in it; the library `webdataset` streams, and stops
there. Beside a tar img2dataset puts a table with all rows it tried (`00000.parquet`): rows that failed come from it.
"""

import tarfile
from pathlib import Path

from data.places import Span
from data.sources._shards import Index, Shard, Shards, ShardsConfig
from data.sources._wrong_root import wrong_root

DOWNLOADED = True
# An extended header, its content and the header itself: a tar that ends within these is cut, not overwritten.
_HEADERS = 3 * tarfile.BLOCKSIZE
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Config(ShardsConfig):
    """Which tars to read."""


def open_source(config: Config) -> Shards:
    """The tars below a folder, or one tar.

    Raises:
        FileNotFoundError, ValueError: if there is none, or some are compressed.
    """
    root = config.path.expanduser()
    found = [root] if root.is_file() and root.suffix == ".tar" else sorted(root.rglob("*.tar"))
    packed = [path for path in root.rglob("*") if path.name.endswith(_COMPRESSED)] if root.is_dir() else []
    if packed:
        raise ValueError(
            f"{len(packed)} tars in {root} are compressed, such as {packed[0].name}; images are read where they lie in"
            " a tar, so unpack to .tar first (gunzip, bunzip2, unxz, unzstd)"
        )
    if not found:
        raise wrong_root(root, "webdataset", "a folder of .tar files, or one of them")
    base = root if root.is_dir() else root.parent
    names = {path.relative_to(base).with_suffix("").as_posix() for path in found}
    if root.is_dir():  # the table of a tar that is gone still tells of its rows
        names |= {path.relative_to(base).with_suffix("").as_posix() for path in root.rglob("*.parquet")}
    return Shards(config, [_shard(base.resolve(), name) for name in names], read_tar)


def recognises(path: Path) -> str | None:
    """Tars at the top of a folder, or one."""
    count = 1 if path.is_file() and path.suffix == ".tar" else sum(1 for _ in path.glob("*.tar"))
    return f"{count} *.tar" if count else None


def _shard(base: Path, name: str) -> Shard:
    def there(suffix: str) -> Path | None:
        path = base / f"{name}{suffix}"
        return path if path.is_file() else None

    return Shard(name, there(".tar"), there(".parquet"), there("_stats.json"))


def read_tar(path: Path) -> Index:
    """Where the members of a tar lie; what it lacks to be whole is its fault.

    Raises:
        OSError: if it cannot be read at all.
    """
    index = Index()
    size, reached, count, problem = path.stat().st_size, 0, 0, ""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    problem = f"the tar ends within its member {member.name}"
                    break
                if member.isfile():
                    index.add(member.name, Span(path, member.offset_data, member.size))
                    count += 1
                reached = tar.offset
                tar.members = []  # type: ignore[attr-defined]  # it would remember them all
    except tarfile.TarError as error:
        problem = str(error)
    if not problem and not _ends_well(path, reached):
        # tarfile takes whatever is no header for the end; a whole tar ends in blocks of zeros.
        problem = "the mark of a tar's end is missing"
    if problem:
        within = problem.startswith("the tar ends")
        cut = within or size - reached <= _HEADERS
        kind = "unreadable" if not reached and not within else "truncated" if cut else "damaged"
        where = f"{problem}, at byte {reached} of {size}; {count} members before that are used"
        index.fault = f"{kind}_shard", f"{path.name}: {where}"
    return index


def _ends_well(path: Path, end: int) -> bool:
    with path.open("rb") as stream:
        stream.seek(end)
        block = stream.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)
