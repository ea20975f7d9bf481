"""Generation killed again and again, then compared with an undisturbed run: `python -m tests.tasks.killing KILLS`.

With `scripted` behind it the engine has one chunk at a time; by default it takes the next quarter while it works.

Prints one JSON object as its last line:
    kills, triplets, requests: of the whole;
    same_rows: whether triplets, generations and rejected rows equal those of the undisturbed run;
    sent_twice: requests sent more than once, `allowed`: one chunk for each kill;
    ledger_doubles: requests that the ledger holds more than once, `ledger_lacks`: those that it does not hold.

Every attempt is a fork of this process, which has all modules loaded and no thread yet.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data.artifact import Artifact
from data.schemas import GENERATIONS, REJECTED, TRIPLETS
from tests.tasks.scripted_generate import CHUNK, run

TABLES = {"triplets.parquet": TRIPLETS, "generations.parquet": GENERATIONS, "rejected.parquet": REJECTED}


def attempt(place: Path, images: int, backend: str) -> int:
    """Start a run in a child; its id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            artifact = run(place, images=images, backend=backend).artifact
            (place / f"{os.environ['CIRQUE_HOME']}.done").write_text(json.dumps([str(artifact.path), artifact.key]))
            status = 0
        finally:
            os._exit(status)
    return pid


def finish(place: Path, images: int, backend: str) -> list[list[dict[str, Any]]]:
    """Run to the end; the rows of all tables."""
    _, status = os.waitpid(attempt(place, images, backend), 0)
    if status != 0:
        raise RuntimeError(f"the run ended with status {status}")
    path, key = json.loads(Path(f"{os.environ['CIRQUE_HOME']}.done").read_text())
    artifact = Artifact(Path(path), "generate", key)
    return [artifact.read(schema, name).to_pylist() for name, schema in TABLES.items()]


def asked(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def use(home: Path, seconds: float) -> Path:
    """Let the attempts that follow keep their things below `home`; the log of what they ask."""
    log = home.with_suffix(".log")
    os.environ.update(CIRQUE_HOME=str(home), SCRIPTED_LOG=str(log), SCRIPTED_SECONDS=str(seconds))
    return log


def kill_often(place: Path, kills: int, images: int, backend: str, seed: int = 0) -> dict[str, Any]:
    """See the module."""
    os.environ["SCRIPTED_BAD"] = "40"
    killed_log = use(place / "killed", seconds=0.004)
    rng = random.Random(seed)
    done = 0
    while done < kills:
        pid = attempt(place, images, backend)
        enough = len(asked(killed_log)) + rng.randint(1, 4 * CHUNK)
        while len(asked(killed_log)) < enough and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))  # anywhere: while it asks, while it writes
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError) as error:
            raise RuntimeError(f"the run ended before kill {done + 1}; take more images") from error
        done += 1
    rows = finish(place, images, backend)
    sent = Counter(asked(killed_log))
    parts = (place / "killed").glob("ledger/**/*.parquet")
    held = Counter(name for path in parts for name in pq.read_table(path)["request_id"].to_pylist())
    log = use(place / "undisturbed", seconds=0)
    expected = finish(place, images, backend)
    return {
        "kills": kills,
        "triplets": len(rows[0]),
        "requests": len(sent),
        "same_rows": rows == expected and sent.keys() == set(asked(log)),
        "sent_twice": sent.total() - len(sent),
        "allowed": kills * CHUNK,
        "ledger_doubles": held.total() - len(held),
        "ledger_lacks": len(sent.keys() - held.keys()),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        number, backend = int(sys.argv[1]), (*sys.argv[2:], "overlapping")[0]
        print(json.dumps(kill_often(Path(folder), number, 60 + 20 * number, backend)))
