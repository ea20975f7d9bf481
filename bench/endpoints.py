"""Two real servers side by side, one killed in mid-run: ``python -m bench.endpoints --json``.

The generate stage asks both through the backend `openai`. When the first has answered a quarter of the captions it is
killed with its engine. The run has to end with every row, asking nothing twice that was answered; what each server
answered is its own count.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.engine_server import Server, served
from bench.generate import inputs
from bench.measure import load
from data.artifact import Artifact
from data.config import Resources
from data.schemas import PAIRS, REJECTED, TRIPLETS
from tasks.generate import generate
from tasks.plans.mra_cir import MraCirGenerate

CONFIG = {"backend": "openai", "model": "tiny_llava", "engine": {"dtype": "float32", "image_side": 96}}


class Killer(threading.Thread):
    """Kills a server once it has answered so many requests; `answered` is what it had by then."""

    def __init__(self, server: Server, enough: int) -> None:
        super().__init__(daemon=True)
        self.server, self.enough, self.answered = server, enough, 0

    def run(self) -> None:
        while self.answered < self.enough:
            time.sleep(0.1)
            self.answered = self.server.answered()
        self.server.kill()


def bench(rows: int, chunk: int, concurrency: int, patience: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        os.environ["CIRQUE_HOME"] = str(place / "home")
        first, second = (stack.enter_context(served("tiny_llava", place / f"{one}.log")) for one in ("one", "two"))
        pairs, images = inputs(place / "inputs", rows, seed=0)
        resources = Resources(
            endpoints=(first.url, second.url), chunk=chunk, concurrency=concurrency, patience=patience
        )
        killer = Killer(first, rows // 4)
        killer.start()
        started = time.perf_counter()
        made = generate.make(MraCirGenerate.model_validate(CONFIG), pairs, images, resources=resources).artifact
        seconds = time.perf_counter() - started
        result = {
            "rows": rows,
            "every_row_once": _every_row_once(pairs, made),
            "kept": made.counts.kept,
            "dropped": made.counts.dropped,
            "answered": {"killed": killer.answered, "other": second.answered()},
            "killed_in_mid_run": not killer.is_alive() and first.process.returncode is not None,
            "ledger": _ledger(place / "home"),
        }
    return {**result, "seconds": round(seconds, 1), "load": load()}


def _every_row_once(pairs: Artifact, made: Artifact) -> bool:
    """Whether each pair is a triplet or a rejected row."""
    wanted = pairs.read(PAIRS, "pairs.parquet")["pair_id"].to_pylist()
    found = made.read(TRIPLETS, "triplets.parquet")["pair_id"].to_pylist()
    found += made.read(REJECTED, "rejected.parquet")["row_id"].to_pylist()
    return sorted(found) == sorted(wanted)


def _ledger(home: Path) -> dict[str, int]:
    """Requests that the ledger holds, and how many of them more than once."""
    held = Counter(
        one for path in home.glob("ledger/**/*.parquet") for one in pq.read_table(path)["request_id"].to_pylist()
    )
    return {"requests": len(held), "doubles": held.total() - len(held)}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.endpoints", description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=16, help="requests under way at each server")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds until the dead server is left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    result = bench(args.rows, args.chunk, args.concurrency, args.patience)
    print(json.dumps(result) if args.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
