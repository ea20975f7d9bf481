"""The generate stage against the bare engine, and its memory: ``python -m bench.generate --json``.

The rate is that of the whole stage - images read and decoded, requests identified, answers stored and read, tables
written and sealed - over images of the tiny world with the small MLLM in vLLM. The bare engine gets the same prompts,
with the images decoded before its clock starts and all prompts of a kind in one call. Both use one engine in one
process, in turn, and neither finds the other's work in its caches: no image is shown to it under the same name twice,
and the bare engine gets the prompts in another order. In the same order its steps would be as large as those of the
stage's turn before it, step by step, and oneDNN makes a kernel for each size it meets and keeps it: 1 to 2 ms a step.
The ratio is the median over all turns that lie next to each other, of which one is the stage's and one the bare
engine's: a shared machine's speed changes from minute to minute, so that the best of many turns is the luckiest one's.

Peak memory is that of a process that runs the stage alone, by default with an engine that answers at once: it shows
what the stage keeps, and twenty thousand rows take minutes. `--memory-engine vllm` takes the real one.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
from PIL import Image

import tasks.generate
from bench.measure import load, resident_mib
from data.artifact import Artifact, Counts, seal, write_table
from data.config import Resources
from data.schemas import IMAGES, PAIRS
from data.tiny_drawing import png
from data.tiny_random_edits import pool_scene
from flows.mra_cir import MraCir
from models.backends import Overlapping, Request, Response, Sampling
from models.backends.vllm import VllmGenerator
from models.checkpoints import resolve
from tasks.ingest import open_image
from tasks.sample import pair_id

CONFIG = MraCir().generate


class Instant:
    """An engine that answers everything with the request's own digits."""

    model, revision = "instant", "0"

    def __init__(self) -> None:
        self._begun: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [self._answer(request) for request in requests]

    def begin(self, requests: Sequence[Request]) -> None:
        self._begun += [replace(request, images=()) for request in requests]

    def finish(self, least: int) -> list[Response]:
        done, self._begun = self._begun[:least], self._begun[least:]
        return self.generate(done)

    def close(self) -> None:
        pass

    def _answer(self, request: Request) -> Response:
        text = f"a text of about sixty characters that ends with {request.request_id[:8]}"
        fields = dict.fromkeys(request.answer, text)
        return Response(request.request_id, json.dumps(fields), "stop", 60, 20)


class Lent:
    """A generator that outlives the stage, and what it was asked: prompt, image digests, seed, temperature."""

    def __init__(self, generator: Overlapping) -> None:
        self.model, self.revision = generator.model, generator.revision
        self._generator = generator
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise NotImplementedError("it overlaps")

    def begin(self, requests: Sequence[Request]) -> None:
        self.asked += [replace(request, images=()) for request in requests]
        self._generator.begin(requests)

    def finish(self, least: int) -> list[Response]:
        return self._generator.finish(least)

    def close(self) -> None:
        """The lender's business."""


def inputs(folder: Path, rows: int, seed: int) -> tuple[Artifact, Artifact]:
    """Pairs and images: each of `rows` scenes with the next. The images lie in a folder of their own, as users' do."""
    for name in ("photos", "images", "pairs"):
        (folder / name).mkdir(parents=True)
    images = []
    for place in range(rows):
        content, file = png(pool_scene(place, seed)), folder.absolute() / "photos" / f"{place:06d}.png"
        file.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        images.append({"image_id": f"{place:06d}", "uri": str(file), "width": 96, "height": 96, "sha256": digest})
    ids = [str(image["image_id"]) for image in images]
    pairs = [
        {"pair_id": pair_id(a, b, "tokens"), "reference_id": a, "target_id": b, "rank": 1, "score": 0.5, "view": "x"}
        for a, b in zip(ids, ids[1:] + ids[:1], strict=True)
    ]
    pairs.sort(key=lambda pair: str(pair["pair_id"]))
    made = []
    for stage, schema, table in (("pairs", PAIRS, pairs), ("images", IMAGES, images)):
        write_table(folder / stage / f"{stage}.parquet", pa.Table.from_pylist(table, schema=schema), schema)
        counts = Counts(read=rows, kept=rows, written=rows)
        made.append(seal(folder / stage, counts, stage=stage, config={"rows": rows, "seed": seed}))
    return made[0], made[1]


def run_stage(folder: Path, generator: Overlapping, pairs: Artifact, images: Artifact, chunk: int) -> float:
    """Seconds of the whole stage with an empty store and an engine that is already there."""
    os.environ["CIRQUE_HOME"] = str(folder / "home")
    opener = tasks.generate.load_backend
    tasks.generate.load_backend = lambda name: lambda *_: generator
    try:
        started = time.perf_counter()
        made = tasks.generate.generate.make(CONFIG, pairs, images, resources=Resources(chunk=chunk)).artifact
        seconds = time.perf_counter() - started
    finally:
        tasks.generate.load_backend = opener
    assert made.counts.read == pairs.counts.written
    return seconds


def run_bare(generator: VllmGenerator, asked: Sequence[Request], images: Artifact) -> float:
    """Seconds of the engine alone for the same prompts in another order: captions, then what shows two images."""
    table = images.read(IMAGES, "images.parquet")
    uris = dict(zip(table["sha256"].to_pylist(), table["uri"].to_pylist(), strict=True))
    decoded = {digest: open_image(images, uri) for digest, uri in uris.items()}
    work = []
    shuffled = random.Random(0).sample(asked, len(asked))
    for count in (1, 2):
        some = [request for request in shuffled if len(request.image_digests) == count]
        work.append(([_conversation(request, decoded) for request in some], [_parameters(one) for one in some]))
    engine = generator._llm
    started = time.perf_counter()
    for conversations, parameters in work:
        if conversations:
            engine.chat(conversations, parameters, use_tqdm=False)
    return time.perf_counter() - started


def _conversation(request: Request, decoded: dict[str, Image.Image]) -> list[dict[str, Any]]:
    shown = [
        {"type": "image_pil", "image_pil": decoded[name], "uuid": f"bare {name}"} for name in request.image_digests
    ]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": request.prompt}]}]


def _parameters(request: Request) -> Any:
    from vllm.sampling_params import SamplingParams

    sampling: Sampling = CONFIG.sampling
    return SamplingParams(
        temperature=request.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=request.seed,
        skip_clone=True,  # as the stage's
    )  # fmt: skip


def rate(rows: int, rounds: int, chunk: int) -> dict[str, Any]:
    """Both in turn, `rounds` times, with other images in each round."""
    generator = _real()
    ours, theirs, cpu = [], [], {"ours": [], "theirs": []}
    try:
        with tempfile.TemporaryDirectory() as folder:
            _warm(generator, Path(folder))
            places = [Path(folder) / str(number) for number in range(rounds)]
            made = [inputs(place, rows, seed) for seed, place in enumerate(places)]
            os.sync()  # else the stage's own writing waits for them
            for place, (pairs, images) in zip(places, made, strict=True):
                lent = Lent(generator)
                for name, work, seconds in (
                    ("ours", partial(run_stage, place, lent, pairs, images, chunk), ours),
                    ("theirs", partial(run_bare, generator, lent.asked, images), theirs),
                ):
                    before = time.process_time()
                    seconds.append(work())
                    cpu[name].append(time.process_time() - before)
                requests = len(lent.asked)
    finally:
        generator.close()
    return {
        "ratio_to_bare_engine": neighbours(ours, theirs),
        "rows_per_second": rows / median(ours),
        "requests_per_second": requests / median(ours),
        "core_seconds_ratio": neighbours(cpu["ours"], cpu["theirs"]),
        "ratio_of_best": min(theirs) / min(ours),
        "ratio_of_totals": sum(theirs) / sum(ours),
        "seconds": {"ours": ours, "theirs": theirs},
        "rows": rows,
        "chunk": chunk,
        "load": load(),
    }


def neighbours(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median ratio of theirs to ours over turns next to each other, taken as ours, theirs, ours, theirs and so on."""
    before_and_after = [*zip(ours, theirs, strict=True), *zip(ours[1:], theirs, strict=False)]
    return median(their / our for our, their in before_and_after)


def _real() -> VllmGenerator:
    return VllmGenerator(resolve(CONFIG.model), CONFIG.sampling, CONFIG.engine, Resources(), 2)


def _warm(generator: VllmGenerator, folder: Path) -> None:
    """Let everything be there that is imported, compiled or, of memory, taken at its first use: a full batch is."""
    pairs, images = inputs(folder / "warm", 512, seed=99)
    lent = Lent(generator)
    run_stage(folder / "warm", lent, pairs, images, Resources().chunk)
    run_bare(generator, lent.asked, images)


def memory(rows: int, engine: str, chunk: int) -> float:
    """Peak resident memory in GiB of this process after the stage has run over `rows`."""
    generator: Overlapping = _real() if engine == "vllm" else Instant()
    with tempfile.TemporaryDirectory() as folder:
        # In a process of their own: drawing and listing so many images takes memory too, and is not the stage's.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
            pairs, images = maker.submit(inputs, Path(folder), rows, 0).result()
        run_stage(Path(folder), generator, pairs, images, chunk)
    generator.close()
    return resident_mib(peak=True) / 1024


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.generate", description=__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="of the rate")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--chunk", type=int, default=Resources().chunk)
    parser.add_argument("--memory-rows", type=int, nargs="*", default=[1000, 20000])
    parser.add_argument("--memory-engine", choices=["instant", "vllm"], default="instant")
    parser.add_argument("--only", choices=["rate", "memory"], help="one of the two measurements, of this process alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args(argv)
    if args.only == "memory":
        print(json.dumps(memory(args.memory_rows[0], args.memory_engine, args.chunk)))
        return
    if args.only == "rate":
        print(json.dumps(rate(args.rows, args.rounds, args.chunk)))
        return
    given = [
        f"--{name}={value}" for name, value in (("rows", args.rows), ("rounds", args.rounds), ("chunk", args.chunk))
    ]
    result = _alone("--only=rate", *given)
    result["peak_gib"] = {
        str(rows): _alone("--only=memory", f"--memory-rows={rows}", f"--memory-engine={args.memory_engine}", *given)
        for rows in args.memory_rows
    }
    result["memory_engine"] = args.memory_engine
    print(json.dumps(result) if args.json else json.dumps(result, indent=2))


def _alone(*options: str) -> Any:
    """What a process of its own measures."""
    command = [sys.executable, "-m", "bench.generate", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1:])
