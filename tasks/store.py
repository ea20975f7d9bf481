"""Where things lie below CIRQUE_HOME, and how an artifact gets there.

    store/<stage>/<key>/      sealed artifacts
    partial/<stage>/<key>/    unfinished ones, which survive a kill; <key>.json beside says what they started from
    locks/                    one file per key
    ledger/                   answers of language models, by request
    curation/<stage>/<key>/   what people said of an artifact's triplets
    features/, towers/        features of images, by the bytes of the image and the network
    checkpoints/              published weights that were converted
    pins/                     what is never collected
    runs/<run>/               run.json, log.jsonl, messages.log

Nothing in it names a place of the machine: the folder may be moved.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.artifact import MANIFEST, TEMPORARY, Artifact, read_manifest, sync, write_json
from data.home import home as home
from data.keys import digest, file_digest
from tasks.locks import hold

KEY_DIGITS = 20  # 80 bits name a folder; the manifest has the whole key and is compared
DECIDING = ("stage", "version", "config", "facts", "inputs")


def gate(home: Path) -> AbstractContextManager[None]:
    """Held for the moment in which a run writes down what it will use, and while unwanted artifacts are removed."""
    return hold(home / "locks" / "gate.lock", waiting=lambda holder: None)


@dataclass(frozen=True)
class Slot:
    """The place of one key, whether its artifact is there or not."""

    home: Path
    stage: str
    key: str

    @property
    def sealed(self) -> Path:
        return self.home / "store" / self.stage / self.key[:KEY_DIGITS]

    @property
    def partial(self) -> Path:
        return self.home / "partial" / self.stage / self.key[:KEY_DIGITS]

    @property
    def lock(self) -> Path:
        return self.home / "locks" / f"{self.stage}-{self.key[:KEY_DIGITS]}.lock"

    @property
    def _note(self) -> Path:
        return self.partial.with_name(f"{self.partial.name}.json")

    def look(self, contents: Mapping[str, str]) -> tuple[Artifact | None, str]:
        """The sealed artifact if it is whole and was made from inputs of these `contents`; else None and why not."""
        if not self.sealed.exists():
            return None, "there is no artifact with this key"
        fault = self._fault(self.sealed, contents)
        return (Artifact(self.sealed, self.stage, self.key), "") if fault is None else (None, fault)

    def making(self) -> int | None:
        """A number that differs between one making of the sealed artifact and the next."""
        try:
            return (self.sealed / MANIFEST).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def prepare(self, contents: Mapping[str, str], forced: bool = False, fresh: bool = False) -> Path:
        """The folder to work in: what an interrupted attempt left there, or empty.

        Args:
            contents: content digests of the inputs; parts made from others are thrown away.
            forced: the artifact is made anew on request, so only what an attempt on request left is continued.
            fresh: throw away whatever is there.
        """
        plain = {"key": self.key, "input_contents": dict(contents)}
        on_request = {**plain, "forced": True}
        left = _read_note(self._note) if self.partial.exists() else None
        if fresh or left not in ((on_request,) if forced else (plain, on_request)):
            discard(self.partial, self.home)
            write_json(self._note, on_request if forced else plain)
            self.partial.mkdir(parents=True)
        (self.partial / MANIFEST).unlink(missing_ok=True)
        for leftover in self.partial.rglob(TEMPORARY):
            leftover.unlink()
        return self.partial

    def finish_sealed(self, contents: Mapping[str, str]) -> bool:
        """Publish an attempt that was killed between its sealing and its publication, if there is one."""
        if not (self.partial / MANIFEST).exists() or self._fault(self.partial, contents) is not None:
            return False
        self.publish()
        return True

    def publish(self) -> None:
        """Move the sealed partial folder to its place; an older artifact there is valid until that moment.

        A kill between the two renames leaves the sealed partial folder, which `finish_sealed` then publishes.
        """
        self.sealed.parent.mkdir(parents=True, exist_ok=True)
        old = move_to_trash(self.sealed, self.home)
        os.rename(self.partial, self.sealed)
        sync(self.sealed.parent)
        self._note.unlink(missing_ok=True)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    def discard_sealed(self) -> None:
        """Remove the sealed artifact, if there is one; the caller holds the lock."""
        discard(self.sealed, self.home)

    def _fault(self, folder: Path, contents: Mapping[str, str]) -> str | None:
        try:
            manifest = read_manifest(folder)
        except (FileNotFoundError, ValueError) as error:
            return f"damaged: {error}"
        missing = sorted({*DECIDING, "content", "input_contents"} - manifest.keys())
        if missing:
            return f"damaged: its manifest has no {', '.join(missing)}"
        material = {name: manifest[name] for name in DECIDING}
        if manifest["key"] != self.key or digest(material) != self.key:
            return f"damaged: its manifest holds the key {manifest['key'][:KEY_DIGITS]}"
        for name, facts in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                return f"damaged: {name} is missing"
            if path.stat().st_size != facts["bytes"]:
                return f"damaged: {name} has {path.stat().st_size} bytes, {facts['bytes']} were sealed"
        for name, content in contents.items():
            if manifest["input_contents"].get(name) != content:
                return f"{name} was made anew with another content since"
        return None


def discard(folder: Path, home: Path) -> None:
    """Remove a folder in one step, as others see it."""
    old = move_to_trash(folder, home)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def move_to_trash(folder: Path, home: Path) -> Path | None:
    """Take a folder away in one step; where it is now, to be removed, or None if there is none."""
    if not folder.exists():
        return None
    trash = home / "trash"
    trash.mkdir(parents=True, exist_ok=True)
    for leftover in trash.iterdir():  # of a process killed while it removed them
        shutil.rmtree(leftover, ignore_errors=True)
    old = trash / uuid.uuid4().hex
    os.rename(folder, old)
    return old


def _read_note(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def faults(folder: Path) -> list[str]:
    """What differs in a sealed folder from what its manifest says, every file read and digested; empty if nothing."""
    try:
        manifest = read_manifest(folder)
        key = digest({name: manifest[name] for name in DECIDING})
    except (FileNotFoundError, ValueError) as error:
        return [str(error)]
    except KeyError as error:
        return [f"its manifest has no {error.args[0]!r}"]
    found = []
    if key != manifest["key"]:
        found.append(f"its manifest gives the key {key[:KEY_DIGITS]}, and says {manifest['key'][:KEY_DIGITS]}")
    if digest(manifest["files"]) != manifest.get("content"):
        found.append("its manifest's list of files is not the one that was sealed")
    found += [fault for name, facts in manifest["files"].items() if (fault := _file_fault(folder / name, name, facts))]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found += [f"{name} was added after the sealing" for name in sorted(there - manifest["files"].keys() - {MANIFEST})]
    return found


def _file_fault(path: Path, name: str, facts: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != facts["bytes"]:
        return f"{name} has {path.stat().st_size} bytes, {facts['bytes']} were sealed"
    return None if file_digest(path) == facts["sha256"] else f"{name} has other bytes than were sealed"
