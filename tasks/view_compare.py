"""Two runs side by side: rows of their stages, texts about the same references, metrics, and single queries."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.artifact import Artifact, read_table
from data.benchmarks import Benchmark, Query, load_benchmark
from data.metrics import paired_test
from data.schemas import SCORES
from tasks.lineage import open_sealed
from tasks.report_parts import TRAINED
from tasks.runs import load_run
from tasks.store import home
from tasks.view_sql import connect, parquet, rows_of

Row = dict[str, Any]
TOP = 5
"""Answers of each run that are shown for a query."""


@dataclass(frozen=True)
class Judged:
    """A query as two runs answered it: was its target found, by most of a run's seeds, and what came first."""

    query: Query
    found: tuple[bool, bool]
    top: tuple[list[str], list[str]]


@dataclass(frozen=True)
class Duel:
    """All queries of a benchmark as two runs answered them.

    Attributes:
        benchmark: its name.
        k: a target counts as found among the first so many.
        queries: in the order of the benchmark.
        p: of "both find as many", by a paired test.
    """

    benchmark: Benchmark
    k: int
    queries: list[Judged]
    p: float

    def some(self, found: tuple[bool, bool]) -> list[Judged]:
        """The queries that the two runs answered so."""
        return [one for one in self.queries if one.found == found]


class Side:
    """One of the two runs; what it lacks is missing without an error.

    Attributes:
        name: the run.
        rows: its stages that are done, as the run's record has them.
    """

    def __init__(self, name: str) -> None:
        """Open a run; a LookupError if there is none of this name."""
        record = load_run(name)
        self.name = record.run
        self.rows = [row for row in record.stages if row.artifact is not None and row.read is not None]
        folders = [home() / row.artifact for row in self.rows if row.artifact is not None]
        self._artifacts = [open_sealed(folder) for folder in folders if (folder / "manifest.json").is_file()]

    def with_file(self, name: str) -> Artifact | None:
        """The last artifact of the run that has a file."""
        return next((one for one in reversed(self._artifacts) if (one.path / name).is_file()), None)

    @cached_property
    def scores(self) -> list[Row]:
        """The rows of its table of scores."""
        found = self.with_file("scores.parquet")
        return [] if found is None else list(read_table(found.file("scores.parquet"), SCORES).to_pylist())


def stage_rows(left: Side, right: Side) -> list[tuple[str, ...]]:
    """Stage, then of both runs the rows read, kept and written, and whether the artifact is the same one."""
    both = [{row.stage: row for row in side.rows} for side in (left, right)]
    found = []
    for stage in dict.fromkeys([*both[0], *both[1]]):
        cells: list[str] = []
        for rows in both:
            row = rows.get(stage)
            values = (None, None, None) if row is None else (row.read, row.kept, row.written)
            cells += ["-" if value is None else f"{value:,}" for value in values]
        keys = [rows[stage].key if stage in rows else None for rows in both]
        found.append((stage, *cells, "same" if keys[0] == keys[1] else "different"))
    return found


def metric_rows(left: Side, right: Side) -> list[tuple[str, ...]]:
    """Benchmark, metric, method, both values with their intervals, and the difference in points; the trained first."""
    cells = [
        {(row["benchmark"], row["split"], row["metric"], row["method"], row["protocol"]): row for row in side.scores}
        for side in (left, right)
    ]
    found: list[tuple[str, ...]] = []
    for key in sorted(dict.fromkeys([*cells[0], *cells[1]]), key=lambda key: (key[0], key[3] not in TRAINED)):
        benchmark, split, metric, method, _ = key
        if "/" in metric:
            continue
        one, other = cells[0].get(key), cells[1].get(key)
        gap = "-" if one is None or other is None else f"{other['value'] - one['value']:+.2f}"
        found.append((f"{benchmark} {split}", metric, method.replace("_", " "), _cell(one), _cell(other), gap))
    return found


def _cell(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{row['value']:.2f} ({row['low']:.1f} to {row['high']:.1f})"


class Texts:
    """The triplets of two runs about the same references.

    Attributes:
        shared: references that both have.
    """

    def __init__(self, left: Side, right: Side) -> None:
        """Find them; a LookupError if one of the runs has no triplets."""
        self._files: list[Path] = []
        for side in (left, right):
            artifact = side.with_file("triplets.parquet")
            if artifact is None:
                raise LookupError(f"run {side.name} has no triplets")
            self._files.append(artifact.file("triplets.parquet"))
        self._connection = connect()
        self._both = " INTERSECT ".join(f"SELECT reference_id FROM {parquet(file)}" for file in self._files)
        self.shared = int(self._ask(f"SELECT count(*) AS n FROM ({self._both})")[0]["n"])

    def page(self, start: int, count: int) -> list[tuple[str, list[Row], list[Row]]]:
        """Some references in the order of their ids, with the triplets of both."""
        page = f"SELECT reference_id FROM ({self._both}) ORDER BY reference_id LIMIT {int(count)} OFFSET {int(start)}"
        ids = [row["reference_id"] for row in self._ask(page)]
        marks = ", ".join("?" * len(ids))
        sides: list[dict[str, list[Row]]] = []
        for file in self._files if ids else []:
            by_reference = defaultdict(list)
            columns = "triplet_id, reference_id, modification, target_id, target_text, rank, score"
            where = f"WHERE reference_id IN ({marks}) ORDER BY triplet_id"
            for row in self._ask(f"SELECT {columns} FROM {parquet(file)} {where}", ids):
                by_reference[row["reference_id"]].append(row)
            sides.append(by_reference)
        return [(one, sides[0][one], sides[1][one]) for one in ids]

    def _ask(self, sql: str, values: Sequence[str] = ()) -> list[Row]:
        return rows_of(self._connection, sql, values)


def duels(left: Side, right: Side) -> list[tuple[str, str]]:
    """Benchmarks and methods that both runs answered and whose targets are known."""
    known = [dict.fromkeys((row["benchmark"], row["method"]) for row in side.scores) for side in (left, right)]
    return [one for one in known[0] if one in known[1]]


def duel(left: Side, right: Side, name: str, method: str, k: int) -> Duel:
    """Every query of a benchmark as both runs answered it by one method.

    Raises:
        LookupError, OSError, ValueError: if the predictions or the benchmark cannot be read, or the runs answered
            another split.
    """
    artifacts = [side.with_file("predictions.parquet") for side in (left, right)]
    if artifacts[0] is None or artifacts[1] is None:
        raise LookupError("the predictions of one of the runs are not in the store any more")
    one, other = artifacts[0], artifacts[1]
    config = one.manifest["config"]
    if other.manifest["facts"]["benchmarks"].get(name) != one.manifest["facts"]["benchmarks"].get(name):
        raise ValueError(f"the two runs answered different queries of {name}")
    benchmark = load_benchmark(name, config["split"], **config["options"].get(name, {}))
    sides = [_answers(side.file("predictions.parquet"), name, method, max(k, TOP)) for side in (one, other)]
    several = any(metric.startswith("map") for metric in benchmark.metrics)
    queries = []
    for query in benchmark.queries:
        if query.targets:
            wanted = set(query.targets if several or query.gains else query.targets[:1])
            found = [_found(side.get(query.query_id, {}), wanted, k) for side in sides]
            top = [next(iter(side.get(query.query_id, {}).values()), [])[:TOP] for side in sides]
            queries.append(Judged(query, (found[0], found[1]), (top[0], top[1])))
    if not queries:
        raise ValueError(f"{name} hides its targets: nobody here knows which answer is right")
    values = [[float(one.found[side]) for one in queries] for side in (0, 1)]
    return Duel(benchmark, k, queries, paired_test(values[0], values[1]))


Answers = dict[str, dict[int | None, list[str]]]
"""Ranked images by query and seed."""


def _answers(path: Path, benchmark: str, method: str, depth: int) -> Answers:
    found: Answers = defaultdict(lambda: defaultdict(list))
    with connect() as connection:
        rows = connection.execute(
            f"SELECT query_id, seed, image_id FROM {parquet(path)} WHERE benchmark = ? AND method = ? AND rank <= ?"
            " ORDER BY query_id, seed, rank",
            [benchmark, method, depth],
        ).fetchall()
    for query_id, seed, image_id in rows:
        found[query_id][seed].append(image_id)
    return found


def _found(seeds: Mapping[int | None, list[str]], wanted: set[str], k: int) -> bool:
    """Whether at least half of the seeds have a wanted image among the first k."""
    hits = sum(bool(wanted & set(ranked[:k])) for ranked in seeds.values())
    return bool(seeds) and 2 * hits >= len(seeds)
