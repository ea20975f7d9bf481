"""The page over a million triplets, and a search among 100,000 images: ``python -m bench.view --json``.

The first page and a filter are asked of the running command over HTTP, each time another one, with all the pictures of
the page: what a browser waits for, without its own time. A filter is a search for words, a condition on the rank and an
order by score. The search is the Try it tab's: a query composed by the shipped checkpoint, and a synthetic query of
32 x 256 ranked exactly against a gallery of as many tokens that is mapped from a file. Best of some rounds; memory is
the largest resident memory of the process that serves, mapped pages included.
"""

import argparse
import html
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import load, resident_mib

TOKENS, DIM = 32, 256
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy of the environment has no business between us and ourselves."""


def browse(rows: int, images: int, rounds: int) -> dict[str, float]:
    """Seconds of a first page and of a filter, and the server's peak memory in GiB."""
    from bench.view_rows import made_up

    with tempfile.TemporaryDirectory() as folder:
        os.environ["CIRQUE_HOME"] = folder
        with served(str(made_up(rows, images).path)) as (address, process):
            first, first_core = _best(lambda turn: _page(f"{address}?seed={turn + 1}"), rounds, process)
            asked = "?q=red+circle&where=rank%7Cat+least%7C5{}&sort=score&down=1"
            narrowed, narrowed_core = _best(lambda turn: _page(address + asked.format(turn + 2)), rounds, process)
            peak = _peak(process) / 2**20
    walls = {"first_page_s": round(first, 3), "filter_s": round(narrowed, 3), "browse": round(peak, 2)}
    return {**walls, "first_page_core_s": round(first_core, 3), "filter_core_s": round(narrowed_core, 3)}


@contextmanager
def served(source: str, *words: str) -> Iterator[tuple[str, int]]:
    """The address of the command and its process id."""
    command = [sys.executable, "-m", "flows", "view", source, "--port", "0", "--no-open", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+/", process.stdout.readline())
        if found is None:
            raise OSError(f"{' '.join(command)} did not say where it serves")
        try:
            yield found[0], process.pid
        finally:
            process.send_signal(signal.SIGINT)


def search(count: int, rounds: int) -> dict[str, float]:
    """Seconds of a search, and this process's peak memory in GiB; to be called in a process of its own."""
    import numpy as np
    import torch
    from PIL import Image

    from bench.synthetic import synthetic
    from data.tokens import read_tokens
    from models.encoders import load_encoder
    from models.lone import LoneRanker
    from models.ranking import TokenSets

    ranker = LoneRanker(TokenSets(*read_tokens(Path(os.environ["CIRQUE_BENCH_TOKENS"]))))
    encoder = load_encoder("tiny_blip2", "cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    queries = synthetic(rounds, TOKENS, DIM, "aligned", seed=1)

    def once(turn: int) -> None:
        with torch.inference_mode():
            encoder.query_tokens(encoder.vision([image]), ["make it red"])
        found = ranker.top_k(TokenSets(["query"], queries[turn : turn + 1]), 12)
        assert found.indices.shape == (1, min(12, count))

    wall, core = _best(once, rounds, os.getpid())
    peak = round(resident_mib(peak=True) / 1024, 2)
    return {"search_s": round(wall, 3), "search_core_s": round(core, 3), "search": peak}


def gallery(count: int, path: Path) -> None:
    """A file of synthetic tokens."""
    from bench.synthetic import synthetic
    from data.tokens import write_tokens

    write_tokens(path, [f"{place:07d}" for place in range(count)], synthetic(count, TOKENS, DIM, "aligned"))


def measure(rows: int, images: int, rounds: int) -> dict[str, Any]:
    """Everything, the search in a process of its own so that its memory is its own."""
    seen = browse(rows, images, rounds)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.arrow"
        here = {**os.environ, "CIRQUE_BENCH_TOKENS": str(tokens)}
        words = [sys.executable, "-m", "bench.view", "--images", str(images), "--rounds", str(rounds)]
        subprocess.run([*words, "--only", "gallery"], check=True, env=here)
        answer = subprocess.run([*words, "--only", "search"], check=True, env=here, stdout=subprocess.PIPE, text=True)
    found = json.loads(answer.stdout.splitlines()[-1])
    return {
        "rows": rows,
        "first_page_s": seen["first_page_s"],
        "filter_s": seen["filter_s"],
        "search_s": found["search_s"],
        "peak_gib": {"browse": seen["browse"], "search": found["search"]},
        "core_s": {
            "first_page": seen["first_page_core_s"],
            "filter": seen["filter_core_s"],
            "search": found["search_core_s"],
        },
        "images": images,
        "load": load(),
    }


def _page(url: str) -> None:
    """Fetch a page and all the pictures on it."""
    with DIRECT.open(url, timeout=600) as answer:
        text = html.unescape(answer.read().decode()).replace("\\u0026", "&")
    pictures = set(re.findall(r"/picture\?[^\"\\]+", text))
    if not pictures:
        raise ValueError(f"{url} shows no picture; found {len(text):,} characters")
    for path in pictures:
        with DIRECT.open(urllib.parse.urljoin(url, path), timeout=600) as answer:
            answer.read()


def _best(work: Callable[[int], None], rounds: int, process: int) -> tuple[float, float]:
    """Least wall time, and least processor time of a process; on a busy machine only the second says much."""
    walls, cores = [], []
    for turn in range(rounds):
        wall, core = time.perf_counter(), _core_seconds(process)
        work(turn)
        walls.append(time.perf_counter() - wall)
        cores.append(_core_seconds(process) - core)
    return min(walls), min(cores)


def _core_seconds(process: int) -> float:
    """Processor time of all threads of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(process: int) -> float:
    """Largest resident memory of a process, in KiB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return float(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The page over many triplets, and a search among many images.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="triplets")
    parser.add_argument("--images", type=int, default=100_000, help="images behind them, and of the gallery")
    parser.add_argument("--rounds", type=int, default=3, help="the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--only", choices=("gallery", "search"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only == "gallery":
        gallery(options.images, Path(os.environ["CIRQUE_BENCH_TOKENS"]))
        return
    if options.only == "search":
        found = search(options.images, options.rounds)
    else:
        found = measure(options.rows, options.images, options.rounds)
    if options.json or options.only:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:14} {value}")


if __name__ == "__main__":
    main()
