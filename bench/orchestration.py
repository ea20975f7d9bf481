"""What orchestration costs beside the work: `python -m bench.orchestration --json [key=value ...]`.

Runs mra_cir in an empty store with a Prefect server that is already up, and compares the time of the whole flow with
that of its stages; then runs the same command again, by which everything is found in the store.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import load
from data.config import StageConfig
from flows.overrides import configure
from flows.recipe import Recipe, load_recipe
from flows.server import local_server
from tasks.runs import load_run

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "mra_cir"


def orchestrated(recipe: Recipe[Any], config: StageConfig) -> dict[str, Any]:
    """Run a recipe on a server that is up: seconds of the flow, of its stages, and what lies between the two."""
    began = time.perf_counter()
    run = recipe.flow(config=config, rerun=[], until=None)
    seconds = time.perf_counter() - began
    stages = sum(row.seconds or 0.0 for row in load_run(run).stages)
    return {
        "seconds": round(seconds, 2),
        "stage_seconds": round(stages, 2),
        "orchestration_seconds": round(seconds - stages, 2),
        "orchestration_share": round((seconds - stages) / seconds, 4),
    }


def cached(command: Sequence[str], rounds: int) -> dict[str, Any]:
    """Run a command whose stages are all stored: the shortest wall time of some rounds, and its processor time."""
    found = []
    for _ in range(rounds):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        lines = [line for line in done.stderr.splitlines() if ": ran, " in line]
        if lines:
            raise RuntimeError(f"not everything was stored: {lines}")
        core = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((time.perf_counter() - began, core))
    wall, core = min(found)
    return {"cached_seconds": round(wall, 2), "cached_core_seconds": round(core, 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the recipe; none: those of the demo")
    parser.add_argument("--rounds", type=int, default=3, help="of the run that finds everything")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cirque-") as folder:
        os.environ["CIRQUE_HOME"] = folder
        with local_server() as server:
            server.start()
            recipe = load_recipe(RECIPE)
            config = configure(recipe.config, given.settings)
            server.wait()
            found = orchestrated(recipe, config)
        found |= cached([sys.executable, "-m", "flows", "run", RECIPE, *given.settings], given.rounds)
    found["load"] = load()
    print(json.dumps(found) if given.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
