"""A campaign of faults against a small run of a whole recipe: `python -m bench.faults --kills 100 --json`.

Kills (SIGKILL, at random moments, in chains that continue one store each), a full disk, a truncated part, a deleted
artifact, a flipped byte, two runs at once. After each, the store has to be whole; at the end of each, its rows have to
be those of an undisturbed run. One Prefect server is kept up, and with --serve one `vllm serve`. What is done is noted
in --home, so that a campaign that was stopped goes on where it was.
"""

import argparse
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.engine_server import served
from bench.fault_checks import Difference, difference
from bench.fault_kinds import OTHERS, Broken, NotTried, Subject
from bench.measure import load
from data.artifact import write_json
from flows.server import local_server
from tasks.locks import hold

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "ingest.images=200", "train.seeds=0", "train.epochs=2", "sample.low=21", "sample.high=30", "rank.depth=30",
    "evaluate.benchmarks=tiny_multi",
)  # fmt: skip
_PAGE = 4096


class Campaign:
    """The faults, each against stores of its own below `folder`, all compared with one undisturbed run."""

    def __init__(
        self, command: Sequence[str], folder: Path, seed: int, say: Callable[[str], None], until: float = math.inf
    ) -> None:
        """Args: until: on the monotonic clock; no fault is begun later."""
        self.until = until
        self.command, self.folder, self.seed, self.say = list(command), folder, seed, say
        self._notes = folder / "campaign.json"
        found = json.loads(self._notes.read_text("utf-8")) if self._notes.exists() else {}
        if found and _lasting(found["command"]) != _lasting(self.command):
            raise ValueError(f"{folder} holds a campaign of another command; give another --home or remove it")
        self.done: dict[str, dict[str, Any]] = found.get("done", {})
        self.whole = Subject(command, folder / "undisturbed")
        self.seconds: list[float] = found.get("seconds", [])  # of the undisturbed run, and of it cached
        if not self.seconds:
            shutil.rmtree(self.whole.home, ignore_errors=True)
            self.seconds = [self.whole.finish(), self.whole.finish()]
            self._note()

    def fault(self, name: str, work: Callable[[Subject, random.Random], int]) -> None:
        """Do what `work` does to a fresh store, finish the recipe, compare; noted, and not done twice."""
        if name in self.done:
            return
        if time.monotonic() > self.until:
            self.say(f"{name}: left for another time")
            return
        size = sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in self.whole.home.rglob("*") if path.is_file())
        subject = Subject(self.command, self.folder / name, size)
        shutil.rmtree(subject.home, ignore_errors=True)
        result: dict[str, Any] = {"kills": 0, "word": "", "rows": [0, 0, 0]}
        try:
            result["kills"] = work(subject, random.Random(f"{self.seed}-{name}"))
            subject.finish()
            subject.check()
            found = difference(self.whole.home, self.whole.last, subject.home, subject.last)
            result |= {"word": found.spelt(), "rows": [found.lost, found.doubled, found.changed]}
        except Broken as error:
            result["word"] = f"failed: {error}"
        except NotTried as error:
            result["word"] = f"not tried: {error}"
        self.say(f"{name}: {result['word']}" + (f" ({result['kills']} kills)" if result["kills"] else ""))
        self.done[name] = result
        self._note()
        if result["word"] == "survived":
            shutil.rmtree(subject.home, ignore_errors=True)

    def chain(self, kills: int) -> Callable[[Subject, random.Random], int]:
        """So many kills of one store. What is finished too soon is begun anew from a stage drawn by lot."""
        whole, cached = self.seconds
        longest = cached + 2 * max(whole - cached, 0.5) / kills

        def work(subject: Subject, draw: random.Random) -> int:
            done, more = 0, tuple[str, ...]()
            while done < kills:
                if subject.kill_after(draw.uniform(0, longest), *more):
                    done, more = done + 1, ()
                    subject.check()
                else:
                    more = ("--rerun", draw.choice([row.stage for row in subject.last.stages]))
            return done

        return work

    def report(self) -> dict[str, Any]:
        """The object of --json."""
        rows = [Difference(*result["rows"]) for result in self.done.values()]
        total = sum(rows, Difference())
        return {
            "kills": sum(result["kills"] for result in self.done.values()),
            "faults": {name: result["word"] for name, result in self.done.items()},
            "rows_lost": total.lost,
            "rows_doubled": total.doubled,
            "rows_changed": total.changed,
            "seconds_undisturbed": round(self.seconds[0], 1),
            "seconds_cached": round(self.seconds[1], 1),
            "load": load(),
        }

    def _note(self) -> None:
        write_json(self._notes, {"command": self.command, "seconds": self.seconds, "done": self.done})


def campaign(
    command: Sequence[str],
    folder: Path,
    kills: int,
    chain: int,
    seed: int,
    say: Callable[[str], None],
    until: float = math.inf,
) -> dict[str, Any]:
    """Run it, or what is left of it and can be begun before `until`, and give the report."""
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / "lock", lambda holder: say(f"{holder} runs this campaign; waiting for it")):
        whole = Campaign(command, folder, seed, say, until)
        for number, first in enumerate(range(0, kills, chain)):
            whole.fault(f"kill_chain_{number}", whole.chain(min(chain, kills - first)))
        for name, work in OTHERS.items():
            whole.fault(name, work)
        return whole.report()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in chains of --chain, each continuing one store")
    parser.add_argument("--chain", type=int, default=10)
    parser.add_argument("--in-process", type=int, default=5, help="kills with the engine in the process itself")
    parser.add_argument("--serve", action="store_true", help="keep one `vllm serve` up and let the kills' runs ask it")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no fault later; another call goes on")
    parser.add_argument("--home", type=Path, default=Path(".cirque-faults"), help="stores and notes of the campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args(arguments)
    command = [sys.executable, "-m", "flows", "run", "mra_cir", *SMALL, *given.set]

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    until = time.monotonic() + 60 * given.minutes
    os.environ.setdefault("CIRQUE_HOME", str((given.home / "server").absolute()))
    with ExitStack() as stack:
        stack.enter_context(local_server()).wait()
        home = given.home.absolute()
        kills = given.in_process if given.serve else given.kills
        reports = [campaign(command, home / "in-process", kills, given.chain, given.seed, say, until)]
        if given.serve and time.monotonic() < until:
            asked = stack.enter_context(served("tiny_llava", home / "engine.log")).settings
            found = campaign([*command, *asked], home / "served", given.kills, given.chain, given.seed, say, until)
            reports.insert(0, found)
    merged: dict[str, Any] = {"kills": sum(report["kills"] for report in reports), "faults": {}}
    for report in reports:
        where = " in process" if len(reports) > 1 and report is reports[-1] else ""
        merged["faults"] |= {f"{name}{where}": word for name, word in report["faults"].items()}
    for name in ("rows_lost", "rows_doubled", "rows_changed"):
        merged[name] = sum(report[name] for report in reports)
    for name in ("seconds_undisturbed", "seconds_cached", "load"):
        merged[name] = reports[0][name]
    print(json.dumps(merged) if given.json else json.dumps(merged, indent=2))


def _lasting(command: Sequence[str]) -> list[str]:
    """A command without the address of a server, which is another one when a campaign goes on."""
    return [word for word in command if not word.startswith("resources.endpoints=")]


if __name__ == "__main__":
    main()
