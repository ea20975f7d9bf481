"""The ledger: every answer a language model ever gave, found by the digest of what it was asked.

Below CIRQUE_HOME/ledger there is one folder per model and prompt; in it, each chunk of answers is one Parquet file,
written whole and never changed. A folder grows under a lock, so that each request has one answer, whoever asked first.
"""

import logging
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.artifact import TEMPORARY, set_aside, write_atomically
from data.keys import digest
from tasks.locks import hold

log = logging.getLogger(__name__)

ENTRIES = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_digest", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("rendered", pa.string(), nullable=False),
        pa.field("image_digests", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("sampling", pa.string(), nullable=False),  # canonical JSON
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("raw_response", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("tokens_in", pa.int32(), nullable=False),
        pa.field("tokens_out", pa.int32(), nullable=False),
        # Of the choices that were asked about; in files without this column none were.
        pa.field("probabilities", pa.list_(pa.field("element", pa.float64(), nullable=False))),
    ]
)
_WITHOUT_PROBABILITIES = pa.schema([field for field in ENTRIES if field.name != "probabilities"])


@dataclass(frozen=True)
class Entry:
    """One answer, and all that decided it. What can be used of it is read anew every time."""

    request_id: str
    prompt: str
    prompt_digest: str
    model: str
    revision: str
    rendered: str
    image_digests: tuple[str, ...]
    sampling: str
    attempt: int
    raw_response: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    probabilities: tuple[float, ...] | None = None

    @staticmethod
    def read(row: Mapping[str, Any]) -> "Entry":
        """The entry in a row of a ledger's file."""
        shares = row.get("probabilities")
        lists = {"image_digests": tuple(row["image_digests"]), "probabilities": shares and tuple(shares)}
        return Entry(**{**row, **lists})


class Ledger:
    """The entries of one model and one prompt.

    Only an index of 16 bytes per entry is held in memory. Safe for any number of processes at once; one object belongs
    to one thread.
    """

    def __init__(self, root: Path, model: str, revision: str, prompt: str, prompt_digest: str) -> None:
        """Open the folder for a model and a prompt, or create it.

        Args:
            root: CIRQUE_HOME/ledger.
            model, revision, prompt, prompt_digest: as in the entries; shown in the folder's name.
        """
        exact = digest([model, revision, prompt, prompt_digest])[:12]
        self.folder = root / f"{_plain(model)}-{revision[:8]}" / f"{_plain(prompt)}-{prompt_digest[:8]}-{exact}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._parts: list[str] = []
        self._known: set[str] = set()
        self._heads: npt.NDArray[np.uint64] = np.empty(0, np.uint64)  # first 64 bits of each id, ascending
        self._places: npt.NDArray[np.uint32] = np.empty((0, 2), np.uint32)  # its part and its row there
        self._refresh()

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, request_ids: Iterable[str]) -> dict[str, Entry]:
        """The entries among `request_ids` that exist, those that other processes wrote meanwhile included."""
        self._refresh()
        return self._find(request_ids)

    def append(self, entries: Sequence[Entry]) -> dict[str, Entry]:
        """Store answers; on return they are on the disk.

        Returns:
            What the ledger holds for each request: the answer given, or an earlier one of another process.
        """
        if not entries:
            return {}
        with hold(self.folder / "lock", _wait_silently):
            for leftover in self.folder.glob(TEMPORARY):  # nobody else is writing here
                leftover.unlink(missing_ok=True)
            self._refresh()
            stored = self._find(entry.request_id for entry in entries)
            new = {entry.request_id: entry for entry in reversed(entries) if entry.request_id not in stored}
            if new:
                self._write([new[request_id] for request_id in sorted(new)])
        return stored | new

    def _write(self, entries: list[Entry]) -> None:
        table = pa.Table.from_pylist([vars(entry) for entry in entries], schema=ENTRIES)
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
        write_atomically(
            path, lambda temporary: pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        )
        self._index({path.name: [entry.request_id for entry in entries]})

    def _refresh(self) -> None:
        """Index the files that came since."""
        # Of many files, which a glob would take ten times as long to list.
        new = sorted(name for name in os.listdir(self.folder) if name.endswith(".parquet") and name not in self._known)
        found = {}
        for name in new:
            column = self._read(name, ["request_id"])
            if column is not None:
                found[name] = column["request_id"].to_pylist()
        self._index(found)

    def _index(self, ids_of: dict[str, list[str]]) -> None:
        heads, places = [self._heads], [self._places]
        for name, ids in ids_of.items():
            rows = np.arange(len(ids), dtype=np.uint32)
            heads.append(np.array([_head(request_id) for request_id in ids], np.uint64))
            places.append(np.stack([np.full_like(rows, len(self._parts)), rows], axis=1))
            self._parts.append(name)
            self._known.add(name)
        if ids_of:
            joined = np.concatenate(heads)
            order = np.argsort(joined, kind="stable")
            self._heads, self._places = joined[order], np.concatenate(places)[order]

    def _find(self, request_ids: Iterable[str]) -> dict[str, Entry]:
        wanted = list(dict.fromkeys(request_ids))
        rows: dict[int, list[int]] = defaultdict(list)
        heads = np.array([_head(request_id) for request_id in wanted], np.uint64)
        first, last = (np.searchsorted(self._heads, heads, side=side) for side in ("left", "right"))
        for start, end in zip(first, last, strict=True):
            for part, row in self._places[start:end]:
                rows[int(part)].append(int(row))
        asked, found = set(wanted), dict[str, Entry]()
        for part, places in sorted(rows.items()):
            table = self._read(self._parts[part], None)
            for row in table.take(places).to_pylist() if table is not None else []:
                if row["request_id"] in asked:  # 64 bits agree with all 256
                    found.setdefault(row["request_id"], Entry.read(row))
        return found

    def _read(self, name: str, columns: list[str] | None) -> pa.Table | None:
        """A part, or None after setting a damaged one aside: what it held is asked again."""
        path = self.folder / name
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                schema, table = file.schema_arrow, file.read(columns)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk or the process, not of the file
            log.warning("%s is damaged (%s) and set aside; its requests will be asked again", set_aside(path), error)
            return None
        if not schema.equals(ENTRIES) and not schema.equals(_WITHOUT_PROBABILITIES):
            raise ValueError(f"{path} has another schema than a ledger's file; was it put there by hand? Move it away")
        return table


def _head(request_id: str) -> int:
    return int(request_id[:16], 16)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)[:60]


def _wait_silently(holder: str) -> None:
    """Nobody needs to know: one chunk is written in an instant."""
