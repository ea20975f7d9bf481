"""What lies in the store, what of it is still wanted, and whether it is what was sealed.

An artifact is wanted if a pin, a run in progress or one of the last runs of its recipe reaches it: by having used it,
or through the inputs of what it used. Answers of language models and features of images belong to no run and stay.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.artifact import read_manifest, refuse_other_bytes, write_json
from data.suggest import did_you_mean
from data.tokens import read_tokens
from tasks.locks import is_held
from tasks.runs import load_run, recorded_runs
from tasks.store import KEY_DIGITS, Slot, faults, gate, move_to_trash

Name = tuple[str, str]
"""A stage and the first digits of a key: what a folder of the store is called."""


@dataclass(frozen=True)
class Holding:
    """A folder of the store: a sealed artifact, or what an interrupted attempt left."""

    kind: Literal["store", "partial"]
    stage: str
    key: str  # its first digits, which name the folder
    folder: Path

    @property
    def name(self) -> Name:
        return self.stage, self.key

    def bytes(self) -> int:
        return folder_size(self.folder)[1]


@dataclass(frozen=True)
class Collected:
    """What `collect` took away, or would have."""

    removed: list[tuple[Holding, int]]  # with its bytes
    kept: list[Holding]


def holdings(home: Path) -> list[Holding]:
    """All folders of the store, by stage and key."""
    found = [
        Holding(kind, folder.parent.name, folder.name, folder)
        for kind in ("store", "partial")
        for folder in (home / kind).glob("*/*")
        if folder.is_dir()
    ]
    return sorted(found, key=lambda holding: (holding.kind != "store", holding.name))


def folder_size(folder: Path) -> tuple[int, int]:
    """Number and bytes of the files below a folder; those that vanish meanwhile are not counted."""
    files, size = 0, 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                size += path.stat().st_size
                files += 1
        except FileNotFoundError:
            continue
    return files, size


def pin(home: Path, target: str) -> str:
    """Keep a run, or an artifact ("train/3f2a"), from ever being collected; returns what was pinned.

    Raises:
        LookupError: if there is no such run or artifact, or more than one.
    """
    name, content = _resolve(home, target)
    write_json(home / "pins" / f"{name}.json", content)
    return name


def unpin(home: Path, target: str) -> str:
    """Take a pin away; raises a LookupError if there is none on `target`."""
    pinned = pins(home)
    found = [name for name in pinned if name == target or name.startswith(target.replace("/", "-"))]
    if len(found) != 1:
        raise LookupError(f"{len(found)} pins fit {target!r};{did_you_mean(target, list(pinned))}")
    (home / "pins" / f"{found[0]}.json").unlink()
    return found[0]


def pins(home: Path) -> dict[str, dict[str, Any]]:
    """Pins by name; each is {"run": id} or {"stage": name, "key": digits}."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((home / "pins").glob("*.json"))}


def wanted(home: Path, keep: int) -> set[Name]:
    """Names of what the pins, the runs in progress and the last `keep` runs of every recipe reach."""
    roots, inputs = set[Name](), dict[Name, set[Name]]()
    pinned = pins(home).values()
    roots |= {(one["stage"], one["key"]) for one in pinned if "key" in one}
    names = {one["run"] for one in pinned if "run" in one}
    seen: dict[str, int] = defaultdict(int)
    for name in reversed(recorded_runs()):
        record = load_run(name)
        if seen[record.recipe] < keep or record.state == "running" or name in names:
            for row in record.stages:
                if row.key is not None:
                    roots.add((row.stage, row.key[:KEY_DIGITS]))
                    inputs[row.stage, row.key[:KEY_DIGITS]] = _inputs(row.material or {})
        seen[record.recipe] += 1
    return _closure(home, roots, inputs)


def collect(home: Path, keep: int, dry_run: bool) -> Collected:
    """Remove what nothing wants; see the module's text.

    A run in progress writes down what it is about to use before it looks for it, and nothing is removed between a last
    reading of that and the removal: `tasks.store.gate`. So it is safe beside any number of runs.

    Args:
        keep: how many runs of each recipe are remembered.
        dry_run: only say what would go.
    """
    removed: list[tuple[Holding, int]] = []
    kept: list[Holding] = []
    set_aside: list[Path | None] = []
    candidates = [holding for holding in holdings(home) if holding.name not in wanted(home, keep)]
    sizes = {holding: holding.bytes() for holding in candidates}
    with gate(home):
        still = wanted(home, keep)
        for holding in holdings(home):
            busy = is_held(Slot(home, holding.stage, holding.key).lock)
            if holding.name in still or busy or holding not in sizes:
                kept.append(holding)
                continue
            removed.append((holding, sizes[holding]))
            if not dry_run:
                set_aside.append(move_to_trash(holding.folder, home))
                holding.folder.with_name(f"{holding.key}.json").unlink(missing_ok=True)  # the partial one's note
    for folder in filter(None, set_aside):
        shutil.rmtree(folder, ignore_errors=True)
    return Collected(removed, kept)


def damage(holding: Holding) -> list[str]:
    """What is wrong with a sealed artifact, every file read and digested; empty if nothing is."""
    found = faults(holding.folder)
    if not found and not read_manifest(holding.folder)["key"].startswith(holding.key):
        found = ["its manifest is of another key than its folder"]
    return found


def loose_faults(home: Path) -> Iterator[tuple[Path, str]]:
    """Damaged files of the ledger and of the image features, with what is wrong."""
    for path in sorted((home / "ledger").rglob("*.parquet")):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                file.read()
        except FileNotFoundError:  # set aside by a run meanwhile
            continue
        except (pa.ArrowException, OSError) as error:
            yield path, str(error)
    readers: dict[str, Callable[[Path], object]] = {
        "features/**/*.arrow": read_tokens,
        "towers/**/*.npy": lambda path: np.load(path, mmap_mode="r"),
    }
    for pattern, read in readers.items():
        for path in sorted(home.glob(pattern)):
            try:
                refuse_other_bytes(path)
                read(path)
            except FileNotFoundError:  # set aside by a run meanwhile
                continue
            except (ValueError, EOFError, OSError) as error:
                yield path, str(error)


def artifact_named(home: Path, target: str) -> Holding:
    """The sealed artifact that "stage/first digits of its key" names; raises a LookupError as `pin` does."""
    stage, _, digits = target.partition("/")
    sealed = [holding for holding in holdings(home) if holding.kind == "store"]
    found = [holding for holding in sealed if holding.stage == stage and holding.key.startswith(digits)]
    if len(found) == 1:
        return found[0]
    near = [f"{holding.stage}/{holding.key[:12]}" for holding in (found or sealed)]
    raise LookupError(f"{len(found)} artifacts fit {target!r};{did_you_mean(target, near)}")


def _resolve(home: Path, target: str) -> tuple[str, dict[str, str]]:
    if "/" in target:
        holding = artifact_named(home, target)
        return f"{holding.stage}-{holding.key}", {"stage": holding.stage, "key": holding.key}
    load_run(target)
    return target, {"run": target}


def _closure(home: Path, roots: Iterable[Name], inputs: dict[Name, set[Name]]) -> set[Name]:
    reached, ahead = set[Name](), list(roots)
    while ahead:
        name = ahead.pop()
        if name in reached:
            continue
        reached.add(name)
        try:
            ahead += _inputs(read_manifest(home / "store" / name[0] / name[1]))
        except (FileNotFoundError, ValueError):  # not made yet, or damaged: what the run wrote down has to do
            ahead += inputs.get(name, set())
    return reached


def _inputs(material: dict[str, Any]) -> set[Name]:
    return {(source["stage"], source["key"][:KEY_DIGITS]) for source in material.get("inputs", {}).values()}
