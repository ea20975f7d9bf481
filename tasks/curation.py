"""What people say of triplets: approved or rejected, other words, tags; kept for ever, by whom and when.

Below CIRQUE_HOME/curation there is one folder per artifact that first wrote the triplets, so that its filtered
descendants share what was said. In it every session appends to a file of its own, a line of JSON for each thing said:
nobody waits for anybody, nothing is ever changed, and what two people say at once is all there. Where they
contradict each other the later word counts.
"""

import json
import os
import re
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from data.artifact import Artifact
from data.keys import digest
from tasks.store import KEY_DIGITS, Slot, home

Action = Literal["approve", "reject", "clear", "edit", "edit_target", "tag", "untag"]
EDITED: dict[str, str] = {"edit": "modification", "edit_target": "target_text"}
"""Which words of a triplet an action writes anew."""
LONGEST = {"edit": 2000, "edit_target": 2000, "tag": 40, "untag": 40}
"""Characters of a text or a tag."""

_JUDGED = ("reference_id", "modification", "target_id", "target_text")
_VERDICTS = {"approve": "approved", "reject": "rejected", "clear": None}


@dataclass(frozen=True, order=True)
class Said:
    """One thing that somebody said of a triplet.

    Attributes:
        time: UTC, ISO 8601 with microseconds.
        author: who.
        triplet_id: of what.
        of: digest of what was judged; what is said of other words under the same id does not count.
        action: what.
        value: the words of an edit ("" takes it back), or the tag.
    """

    time: str
    author: str
    triplet_id: str
    of: str
    action: Action
    value: str = ""


@dataclass
class Opinion:
    """What has been said of a triplet, in all.

    Attributes:
        verdict: "approved", "rejected" or None.
        edits: the words that it was given, by the column they replace: "modification", "target_text".
        tags: those that are on it.
        history: everything, in the order of time.
    """

    verdict: str | None = None
    edits: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    history: list[Said] = field(default_factory=list)

    def hear(self, said: Said) -> None:
        """Take in the next thing said."""
        self.history.append(said)
        if said.action in _VERDICTS:
            self.verdict = _VERDICTS[said.action]
        elif said.action in EDITED:
            others = {name: words for name, words in self.edits.items() if name != EDITED[said.action]}
            self.edits = {**others, EDITED[said.action]: said.value} if said.value else others
        elif said.action == "tag":
            self.tags.add(said.value)
        else:
            self.tags.discard(said.value)

    def plain(self) -> list[Any]:
        """What counts, as plain values."""
        return [self.verdict, dict(self.edits), sorted(self.tags)]


def judged_digest(row: Mapping[str, Any]) -> str:
    """Identity of what somebody sees of a triplet when judging it."""
    return digest([row[name] for name in _JUDGED])[:16]


def curation_folder(triplets: Artifact) -> Path:
    """Where what is said of an artifact's triplets lies: by the first artifact in its line that has triplets."""
    stage, key = triplets.stage, triplets.key
    inputs = triplets.manifest["inputs"]
    while "triplets" in inputs:
        stage, key = inputs["triplets"]["stage"], inputs["triplets"]["key"]
        slot = Slot(home(), stage, key)
        path = slot.sealed / "manifest.json"
        inputs = Artifact(slot.sealed, stage, key).manifest["inputs"] if path.is_file() else {}
    return home() / "curation" / stage / key[:KEY_DIGITS]


class Curation:
    """All that was said of some triplets; any number of threads, processes and people at once.

    Attributes:
        folder: where it lies.
        version: grows whenever something new was heard.
        torn: lines that are not whole, of a process that was killed while it wrote; they are left out.
    """

    def __init__(self, folder: Path) -> None:
        """Read what there is; nothing is written before somebody says something."""
        self.folder = folder
        self.version = 0
        self.torn = 0
        self._opinions: dict[tuple[str, str], Opinion] = {}
        self._read: dict[str, int] = {}  # bytes of each file that were taken in
        self._own: dict[str, Path] = {}  # file of each author in this process
        self._lock = threading.RLock()
        self.refresh()

    def say(self, row: Mapping[str, Any], author: str, action: Action, value: str = "") -> Opinion:
        """Write down what somebody says of a triplet; it is on the disk on return.

        Args:
            row: the triplet, as its artifact has it.
            author: who; a name of at least one visible character.
            action: what.
            value: of an edit or a tag.

        Raises:
            ValueError: if there is no author, the value is empty or too long, or the triplet has no such words to edit.
        """
        author, value = " ".join(author.split()), value.strip()
        _check(author, action, value, row)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        said = Said(now, author, row["triplet_id"], judged_digest(row), action, value)
        with self._lock:
            path = self._file_of(author)
            line = json.dumps(asdict(said), ensure_ascii=False) + "\n"
            try:
                with path.open("ab") as stream:
                    stream.write(line.encode("utf-8"))
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError:
                del self._own[author]  # half a line may be in it: the next one goes into a new file
                raise
            self.refresh()
            return self.opinion(row)

    def opinion(self, row: Mapping[str, Any]) -> Opinion:
        """What was said of a triplet."""
        with self._lock:
            return self._opinions.get((row["triplet_id"], judged_digest(row)), Opinion())

    def opinions(self) -> dict[tuple[str, str], Opinion]:
        """All opinions, by triplet id and digest of what was judged."""
        with self._lock:
            return dict(self._opinions)

    def refresh(self) -> None:
        """Take in what others said meanwhile: costs a look at each file's size where there is nothing new."""
        with self._lock:
            new: list[Said] = []
            for path in sorted(self.folder.glob("*.jsonl")) if self.folder.is_dir() else []:
                new += self._news(path)
            if not new:
                return
            for said in sorted(new):
                self._hear(said)
            self.version += 1

    def _hear(self, said: Said) -> None:
        key = (said.triplet_id, said.of)
        opinion = self._opinions.setdefault(key, Opinion())
        if opinion.history and said < opinion.history[-1]:  # heard late: begin anew, in the order of time
            history = sorted([*opinion.history, said])
            opinion = self._opinions[key] = Opinion()
            for one in history:
                opinion.hear(one)
        else:
            opinion.hear(said)

    def _news(self, path: Path) -> list[Said]:
        """Whole lines that a file has gained."""
        start = self._read.get(path.name, 0)
        if path.stat().st_size <= start:
            return []
        with path.open("rb") as stream:
            stream.seek(start)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path.name] = start + len(whole)
        found = []
        for line in whole.splitlines():
            said = _parsed(line)
            if said is None:
                self.torn += 1
            else:
                found.append(said)
        return found

    def _file_of(self, author: str) -> Path:
        if author not in self._own:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"\W+", "-", author)[:40]
            self._own[author] = self.folder / f"{name}-{uuid.uuid4().hex[:12]}.jsonl"
        return self._own[author]


def opinions_digest(opinions: Iterable[tuple[tuple[str, str], Opinion]]) -> str:
    """Identity of what counts, whoever said it when."""
    nothing = Opinion().plain()
    plain = [[*key, *opinion.plain()] for key, opinion in opinions if opinion.plain() != nothing]
    return digest(sorted(plain, key=lambda row: row[:2]))


def _check(author: str, action: Action, value: str, row: Mapping[str, Any]) -> None:
    if not author:
        raise ValueError("nobody says it: give your name, so that others know whose verdict it is")
    most = LONGEST.get(action, 0)
    if len(value) > most:
        raise ValueError(f"{action} has {len(value):,} characters; at most {most:,} are kept")
    if action in ("tag", "untag") and not value:
        raise ValueError("the tag is empty; give a word, such as 'wrong-colour'")
    if action in EDITED:
        before = row[EDITED[action]]
        if before is None:
            raise ValueError(
                f"triplet {row['triplet_id']} has no {EDITED[action]}; only words that are there can be edited"
            )
        if value == before:
            raise ValueError("the words are those that the triplet has already")


def _parsed(line: bytes) -> Said | None:
    try:
        said = Said(**json.loads(line))
    except (ValueError, TypeError):
        return None
    strings = all(isinstance(value, str) for value in asdict(said).values())
    return said if strings and said.action in get_args(Action) else None
