"""A recipe's command as a subject for faults, and the kinds of fault that are no kills."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.fault_checks import broken_invariants
from data.artifact import TEMPORARY
from tasks.runs import RunRecord, load_run, recorded_runs
from tasks.upkeep import damage, holdings, loose_faults

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 3600.0


class Broken(Exception):  # noqa: N818  as the verdict is spelt
    """A fault was not survived; the message says what is wrong."""


class Subject:
    """A command that runs a recipe, and its store.

    Attributes:
        size: bytes that the store takes when nothing disturbs it, in whole pages, as a tmpfs counts them.
    """

    def __init__(self, command: Sequence[str], home: Path, size: int = 0) -> None:
        self.command, self.home, self.size = list(command), home, size

    def start(self, *more: str) -> "subprocess.Popen[str]":
        self.home.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [*self.command, *more], cwd=ROOT, env={**os.environ, "CIRQUE_HOME": str(self.home)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, *more: str) -> float:
        """Run to the end and give the seconds; Broken if it fails."""
        began = time.perf_counter()
        process = self.start(*more)
        _, said = process.communicate(timeout=_PATIENCE)
        _require_success(process, said)
        return time.perf_counter() - began

    def kill_after(self, seconds: float, *more: str) -> bool:
        """Kill it dead after so many seconds; False if it was done before. Broken if it failed, or a process outlives
        it."""
        process = self.start(*more)
        try:
            _, said = process.communicate(timeout=seconds)
            _require_success(process, said)
            return False
        except subprocess.TimeoutExpired:
            self.kill(process)
            return True

    @staticmethod
    def kill(process: "subprocess.Popen[str]") -> None:
        """Kill it dead. Broken if a process outlives it."""
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        deadline = time.monotonic() + 60
        while left := _of_session(process.pid):
            if time.monotonic() > deadline:
                raise Broken(f"processes {left} outlived the command that was killed")
            time.sleep(0.2)

    def parts(self) -> list[Path]:
        """Files that work in progress or an earlier one left to be continued from."""
        found = [path for below in ("partial", "features", "ledger") for path in (self.home / below).rglob("*.*")]
        return sorted(path for path in found if path.suffix in (".parquet", ".arrow") and not path.match(TEMPORARY))

    @property
    def last(self) -> RunRecord:
        with self.at_home():
            return load_run(recorded_runs()[-1])

    @contextmanager
    def at_home(self) -> Iterator[None]:
        before = os.environ.get("CIRQUE_HOME")
        os.environ["CIRQUE_HOME"] = str(self.home)
        try:
            yield
        finally:
            os.environ.pop("CIRQUE_HOME")
            if before is not None:
                os.environ["CIRQUE_HOME"] = before

    def verified(self, damaged: str) -> None:
        """Let `store verify` discard what is damaged; Broken if its report does not name this."""
        command = [sys.executable, "-m", "flows", "store", "verify", "--discard"]
        environment = {**os.environ, "CIRQUE_HOME": str(self.home)}
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if found.returncode != 1 or damaged not in found.stdout.replace("\n", ""):
            raise Broken(f"`store verify` said {found.stdout!r}")

    def check(self) -> None:
        """Broken if an invariant of the store is."""
        if found := broken_invariants(self.home):
            raise Broken("; ".join(found[:5]))


class NotTried(Exception):  # noqa: N818  nothing went wrong
    """This machine does not allow the fault; the message says why."""


def truncated_part(subject: Subject, draw: random.Random) -> int:
    """Kill it some time after it left a first part, and cut one of its parts in half."""
    parts, ended = list[Path](), False
    while not parts and not ended:  # a kill may come just after the parts became an artifact
        process = subject.start()
        while process.poll() is None and not subject.parts():
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=draw.uniform(0, 20))
        ended = process.poll() is not None
        if process.returncode:
            raise Broken(f"the command ended with {process.returncode} before it was killed")
        subject.kill(process)
        parts = subject.parts()
    if not parts:
        raise NotTried("it leaves no tables or tensors to be continued from")
    victim = draw.choice(parts)
    os.truncate(victim, victim.stat().st_size // 2)
    subject.finish()
    if victim in dict(loose_faults(subject.home)):  # what it is for was done already, so nothing read it
        subject.verified(victim.name)
    return 0


def deleted_artifact(subject: Subject, draw: random.Random) -> int:
    """Remove a finished artifact."""
    subject.finish()
    shutil.rmtree(draw.choice(holdings(subject.home)).folder)
    return 0


def flipped_byte(subject: Subject, draw: random.Random) -> int:
    """Change one byte of a finished artifact, which verification has to name, and one of the features it left."""
    subject.finish()
    holding = draw.choice([one for one in holdings(subject.home) if one.kind == "store"])
    path = draw.choice(sorted(path for path in holding.folder.rglob("*") if path.is_file() and path.stat().st_size))
    _flip(path, draw)
    if not damage(holding):
        raise Broken(f"a flipped byte of {path.relative_to(subject.home)} was not noticed")
    subject.verified(holding.key[:12])
    flipped_feature(subject, draw)
    return 0


def flipped_feature(subject: Subject, draw: random.Random) -> None:
    """Change one byte of the tokens that were kept, if any were: verification names it, `encode` sets it aside."""
    parts = sorted((subject.home / "features").glob("tokens-*/*.arrow"))
    if not parts:
        return
    victim = draw.choice(parts)
    _flip(victim, draw)
    if victim not in dict(loose_faults(subject.home)):
        raise Broken(f"a flipped byte of {victim.relative_to(subject.home)} was not noticed")
    subject.finish("--rerun", "encode", "--until", "encode")
    if not victim.with_suffix(".torn").exists():
        raise Broken(f"{victim.relative_to(subject.home)} was used with a flipped byte")


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 0x01
    path.write_bytes(content)


def two_at_once(subject: Subject, draw: random.Random) -> int:
    """Two commands on one empty store."""
    both = [subject.start(), subject.start()]
    said = [process.communicate(timeout=_PATIENCE)[1] for process in both]
    for process, text in zip(both, said, strict=True):
        if process.returncode:
            raise Broken(f"one of two ended with {process.returncode}: {text.strip()[-600:]}")
    return 0


def full_disk(subject: Subject, draw: random.Random) -> int:
    """A store on a file system that takes a part of it, drawn by lot, and then all of it."""
    subject.home.mkdir(parents=True)
    size = int(subject.size * draw.uniform(0.3, 0.8))
    options = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(subject.home)]
    mounted = subprocess.run(options, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise NotTried(f"no tmpfs can be mounted here ({mounted.stderr.strip()})")
    elsewhere = subject.home.with_name("full_disk_kept")
    shutil.rmtree(elsewhere, ignore_errors=True)
    try:
        process = subject.start()
        _, said = process.communicate(timeout=_PATIENCE)
        if process.returncode == 0:
            raise Broken(f"the run ended well on a disk of {size} bytes, which cannot hold it")
        if "o space left" not in said and f"free in {subject.home}" not in said:
            raise Broken(f"the message does not speak of the disk: {said.strip()[-600:]}")
        subprocess.run(["mount", "-o", "remount,size=4g", str(subject.home)], check=True)
        subject.finish()
        subject.check()
        shutil.copytree(subject.home, elsewhere)
    finally:
        subprocess.run(["umount", "-l", str(subject.home)], check=True)
    shutil.rmtree(subject.home)
    elsewhere.rename(subject.home)
    return 0


OTHERS = {
    "truncated_part": truncated_part, "deleted_artifact": deleted_artifact, "flipped_byte": flipped_byte,
    "two_at_once": two_at_once, "full_disk": full_disk,
}  # fmt: skip


def _require_success(process: "subprocess.Popen[str]", said: str) -> None:
    if process.returncode:
        raise Broken(f"the command ended with {process.returncode}: {said.strip()[-600:]}")


def _of_session(leader: int) -> list[int]:
    """Living processes of a session; what waits to be reaped is dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found
