"""Stages for the tests of `tasks.stage`, and a process that runs them: `python -m tests.tasks.counting GATE`.

The process makes three parts and then waits until the file GATE exists.
"""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from data.artifact import Artifact, Counts
from data.config import Resources, StageConfig
from data.progress import progress
from tasks.runs import start_run
from tasks.stage import Outcome, stage

PARTS = 6
before_part: Callable[[int], None] = lambda number: None  # noqa: E731  tests put obstacles here


class CountConfig(StageConfig):
    offset: int = 0


class SumConfig(StageConfig):
    scale: int = 1


@stage(version=1, facts=lambda config: {"parts": PARTS})
def count(out: Path, config: CountConfig, *, resources: Resources) -> Counts:
    """Six parts; a finished part is not made again. `calls` has one line per part that was."""
    with progress(PARTS, "parts") as advance:
        for number in range(PARTS):
            part = out / f"{number}.txt"
            if not part.exists():
                with (out / "calls").open("a") as calls:
                    calls.write(f"{number}\n")
                before_part(number)
                part.write_text(str(number + config.offset))
            advance(1)
    return Counts(read=PARTS, kept=PARTS - 1, dropped={"last": 1}, written=PARTS)


@stage()
def add(out: Path, config: SumConfig, numbers: Artifact) -> Counts:
    """The sum of the parts: 0 + 1 + ... + 5 = 15, and 6 times the offset."""
    values = [int(path.read_text()) for path in numbers.path.glob("*.txt")]
    (out / "sum").write_text(str(sum(values) * config.scale))
    return Counts(read=len(values), kept=len(values), written=1)


def run_both(
    offset: int = 0, scale: int = 1, rerun: tuple[str, ...] = (), until: str | None = None
) -> tuple[str, dict[str, Outcome]]:
    """The recipe of the two stages; the run's id and what came of each stage."""
    outcomes = {}
    with start_run("counting", ["count", "add"], CountConfig(), rerun, until) as run:
        outcomes["count"] = count.make(CountConfig(offset=offset), resources=Resources())
        outcomes["add"] = add.make(SumConfig(scale=scale), outcomes["count"].artifact)
    return run.id, outcomes


def wait_for(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.02)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    before_part = lambda number: wait_for(Path(sys.argv[1])) if number == 3 else None  # noqa: E731
    run_both()
