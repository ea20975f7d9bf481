"""Ingesting img2dataset's tars in bounded memory: ``python -m bench.ingest --rows 10000 100000 --json``.

Writes shards of tiny JPEG files with their texts, JSON and tables, a tenth of the rows failed downloads, one in a
hundred a repeated picture, and runs the stage on them: index, decoding, digests, duplicates, tables, manifest. Every
size has a process of its own, so that one does not live in memory that another left.

With ``--undecoded`` the rows come from a list that is made up as it is read, and no file is written, read or decoded:
what remains is all that could grow with the number of rows, at sizes for which decoding takes too long.
"""

import argparse
import io
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import tasks.verify
from bench.measure import load, measured, resident_mib
from data.config import Resources
from data.images import Checked
from data.places import Span
from data.sources import Item
from tasks.ingest import IngestConfig, ingest
from tasks.merge import Merged, merge

SIDE = 16


def jpegs() -> Iterator[bytes]:
    """JPEG files that all differ: 64 colours, and a comment with the number."""
    kinds = []
    for number in range(64):
        stream = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (number * 4, 255 - number * 3, number)).save(stream, "JPEG")
        kinds.append(stream.getvalue())
    number = 0
    while True:
        kind, comment = kinds[number % 64], struct.pack(">HHQ", 0xFFFE, 10, number)
        yield kind[:2] + comment + kind[2:]
        number += 1


def write_shards(folder: Path, rows: int, per_shard: int) -> None:
    """Tars and tables as img2dataset writes them, the rows of a tar in reverse; no more than a shard in memory."""
    made = jpegs()
    for shard, start in enumerate(range(0, rows, per_shard)):
        table: list[dict[str, Any]] = []
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for row in reversed(range(start, min(start + per_shard, rows))):
                picture = next(made)
                facts = {"key": f"{row:09d}", "caption": f"caption {row}", "url": f"http://host/{row}.jpg"}
                facts |= {"original_width": SIDE, "original_height": SIDE, "exif": "{}"}
                failed = row % 10 == 3
                facts |= {"status": "failed_to_download" if failed else "success"}
                facts |= {"error_message": "HTTP Error 404: Not Found" if failed else None}
                original = f"{row - 1 if row % 100 == 50 else row}"
                facts |= {"sha256": None if failed else sha256(original.encode()).hexdigest()}
                table.append(facts)
                if not failed:
                    _add(tar, f"{row:09d}", picture, facts)
        numbers = {"original_width", "original_height"}
        schema = pa.schema([(name, pa.int64() if name in numbers else pa.string()) for name in facts])
        pq.write_table(pa.Table.from_pylist(table, schema=schema), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text("{}", encoding="utf-8")


def _add(tar: tarfile.TarFile, key: str, picture: bytes, facts: dict[str, Any]) -> None:
    members = {"jpg": picture, "txt": facts["caption"].encode(), "json": json.dumps(facts).encode()}
    for suffix, content in members.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    tar.members.clear()  # type: ignore[attr-defined]  # it remembers what it wrote


def measure(rows: int, per_shard: int, workers: int, folder: Path) -> dict[str, Any]:
    """Write and ingest so many rows below `folder`; times and memory of the stage."""
    shards = folder / "shards"
    shards.mkdir()
    # In a process of its own: memory that writing left behind would hide what ingesting takes.
    writer = multiprocessing.get_context("spawn").Process(target=write_shards, args=(shards, rows, per_shard))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    os.environ["CIRQUE_HOME"] = str(folder / "home")
    made = []
    config, resources = IngestConfig(source="webdataset", path=shards), Resources(workers=workers)
    before = resident_mib(peak=False)
    found = measured(lambda: made.append(ingest.make(config, resources=resources).artifact))
    counts = made[0].counts
    assert counts.read == rows
    assert counts.dropped == {"failed_to_download_http_404": sum(row % 10 == 3 for row in range(rows))} | {
        "duplicate": len(range(50, rows, 100))
    }
    return {
        "rows": rows,
        "shards": counts.detail["shards"],
        "kept": counts.kept,
        "peak_mib": round(found["peak_mib"], 1),
        "resident_before_mib": round(before, 1),
        "rows_per_core_second": round(rows / found["core_seconds"]),
        "wall_seconds": round(found["wall_seconds"], 1),
        "manifest_bytes": (made[0].path / "manifest.json").stat().st_size,
        "load": load(),
    }


class Rows:
    """A source of so many images at made-up places, one in a hundred with the digest of the one before."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def listing(self) -> str:
        return str(self._rows)

    def items(self) -> Iterator[Item]:
        for row in range(self._rows):
            digest = sha256(f"{row - 1 if row % 100 == 50 else row}".encode()).hexdigest()
            url, place = f"http://host/{row}.jpg", Span(Path("/shards/00000.tar"), row * 1024, 512)
            yield Item(f"{row // 10_000:05d}/{row:09d}", place, None, None, f"caption {row}", url=url, sha256=digest)


def measure_undecoded(rows: int, workers: int, folder: Path) -> dict[str, Any]:
    """Verify and merge so many rows below `folder`, with a decoder that says yes to all."""
    tasks.verify.check = lambda content: Checked(SIDE, SIDE, "0" * 64, ".jpg")
    made: list[Merged] = []

    def work() -> None:
        parts = tasks.verify.verify_parts(Rows(rows), folder, folder / "parts", {"items": rows}, workers)
        made.append(merge(parts, folder, None))

    before = resident_mib(peak=False)
    found = measured(work)
    assert made[0].kept == rows - len(range(50, rows, 100))
    return {
        "rows": rows,
        "kept": made[0].kept,
        "peak_mib": round(found["peak_mib"], 1),
        "resident_before_mib": round(before, 1),
        "rows_per_core_second": round(rows / found["core_seconds"]),
        "wall_seconds": round(found["wall_seconds"], 1),
        "load": load(),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000, 200_000], help="sizes to measure")
    parser.add_argument("--per-shard", type=int, default=10_000, help="rows of a tar; img2dataset's default")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode")
    parser.add_argument("--folder", type=Path, help="where a size is measured in this very process; else temporary")
    parser.add_argument("--undecoded", action="store_true", help="only what grows with the rows, without any image")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(argv)
    if options.folder is not None:
        if options.undecoded:
            print(json.dumps(measure_undecoded(options.rows[0], options.workers, options.folder)))
        else:
            print(json.dumps(measure(options.rows[0], options.per_shard, options.workers, options.folder)))
        return
    sizes = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="cirque-ingest-") as folder:
            started = time.perf_counter()
            command = [sys.executable, "-m", "bench.ingest", "--rows", str(rows), "--folder", folder]
            command += ["--per-shard", str(options.per_shard), "--workers", str(options.workers)]
            command += ["--undecoded"] * options.undecoded
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            sizes.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{rows:>9,} rows: {sizes[-1]} ({time.perf_counter() - started:.0f} s with writing)")
    peaks = [size["peak_mib"] for size in sizes]
    ratios = {"peak_ratio": round(peaks[-1] / peaks[0], 2), "rows_ratio": sizes[-1]["rows"] / sizes[0]["rows"]}
    if options.json:
        print(json.dumps({"sizes": sizes, **ratios}))


if __name__ == "__main__":
    main(sys.argv[1:])
