"""Compare: several evaluations in one table, each beside the first, and beside what a paper found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from data.artifact import Artifact, Counts, write_atomically, write_table
from data.config import StageConfig
from data.metrics import paired_test
from data.schemas import SCORES, TESTS, VALUES
from tasks.report import template
from tasks.stage import stage

Row = dict[str, Any]


class Variant(StageConfig):
    """One row of the table.

    Attributes:
        label: its name.
        source: which of the evaluations; None for one that was not made.
        method: of that evaluation.
        note: what a reader should know; where it was not made, why.
        paper: what a paper reports of it, by name of the column.
        against: label of the row that it is compared with; None: the first.
        along: a number that the scores may follow; see `CompareConfig.along`.
    """

    label: str
    source: str | None
    method: str
    note: str = ""
    paper: dict[str, float] = Field({}, description="figures of a paper, by the name of their column")
    against: str | None = None
    along: float | None = None


class CompareConfig(StageConfig):
    """What is compared with what."""

    title: str
    variants: tuple[Variant, ...] = Field(
        description="the first is what the others are compared with, if they name no other"
    )
    tags: bool = Field(False, description="also by kind of edit")
    along: str | None = Field(None, description="name of the variants' numbers; their correlation with scores is given")

    @model_validator(mode="after")
    def _different(self) -> Self:
        labels = [one.label for one in self.variants]
        if len(set(labels)) < len(labels) or not labels or self.variants[0].source is None:
            raise ValueError(f"want variants with different labels, of which the first was made; got {labels}")
        if self.variants[0].against is not None:
            raise ValueError(f"the first row, {labels[0]!r}, is compared with none; leave out its `against`")
        made = {one.label for one in self.variants if one.source is not None}
        for one in self.variants:
            if one.label in made and one.against is not None and one.against not in made - {one.label}:
                raise ValueError(
                    f"variant {one.label!r} is compared with {one.against!r}, which is no other row that was made;"
                    f" there are {', '.join(labels)}"
                )
        return self


@stage(version=1)
def compare(out: Path, config: CompareConfig, evaluations: Mapping[str, Artifact]) -> Counts:
    """Write scores.parquet with the variants as methods, tests.parquet, table.md and report.html.

    A test takes each query's mean over the seeds, and compares a variant with the first, or with the one that it names,
    query by query. Rows are variants; one that was not made is dropped.

    Raises:
        ValueError: if a variant's evaluation or method is missing, or it and what it is compared with were asked
            different queries.
    """
    made = [one for one in config.variants if one.source is not None]
    scores = [row for one in made for row in _scores(one, evaluations)]
    worth = {one.label: _worth(one, evaluations) for one in made}
    others = {one.label: one.against or made[0].label for one in made[1:]}
    tests = [row for label, other in others.items() for row in _tests(label, worth[label], other, worth[other])]
    write_table(out / "scores.parquet", pa.Table.from_pylist(scores, schema=SCORES), SCORES)
    write_table(out / "tests.parquet", pa.Table.from_pylist(tests, schema=TESTS), TESTS)
    links = correlations(made, worth) if config.along else {}
    tables = [comparison(config, scores, tests, tagged) for tagged in ((False, True) if config.tags else (False,))]
    told = [
        f"Correlation of {config.along} with {benchmark} {metric} over {len(made)} rows:"
        f" {value:.2f} [{low:.2f}, {high:.2f}]"
        for (benchmark, metric), (value, low, high) in links.items()
    ]
    text = "\n\n".join([*(markdown(*table) for table in tables), *told]) + "\n"
    write_atomically(out / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    page = template("compare.html.j2").render(title=config.title, tables=tables, told=told)
    write_atomically(out / "report.html", lambda path: path.write_text(page, encoding="utf-8"))
    missing = len(config.variants) - len(made)
    return Counts(
        read=len(config.variants),
        kept=len(made),
        dropped={"not_made": missing} if missing else {},
        written=len(scores),
        detail={one.label: one.note for one in config.variants if one.source is None},
    )


def _source(one: Variant, evaluations: Mapping[str, Artifact]) -> Artifact:
    if one.source is None or one.source not in evaluations:
        raise ValueError(f"variant {one.label!r} is of evaluation {one.source!r}; there are {', '.join(evaluations)}")
    return evaluations[one.source]


def _scores(one: Variant, evaluations: Mapping[str, Artifact]) -> list[Row]:
    rows = _source(one, evaluations).read(SCORES, "scores.parquet").to_pylist()
    found = [{**row, "method": one.label} for row in rows if row["method"] == one.method]
    if not found:
        known = ", ".join(dict.fromkeys(row["method"] for row in rows))
        raise ValueError(f"variant {one.label!r} is of method {one.method!r}; the evaluation has {known}")
    return found


def _worth(one: Variant, evaluations: Mapping[str, Artifact]) -> dict[tuple[str, str], dict[str, float]]:
    """Points of each query, mean over the seeds, by benchmark and metric."""
    runs: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in _source(one, evaluations).read(VALUES, "values.parquet").to_pylist():
        if row["method"] == one.method:
            queries = runs.setdefault((row["benchmark"], row["metric"]), {})
            queries.setdefault(row["query_id"], []).append(100 * row["value"])
    return {cell: {query: float(np.mean(some)) for query, some in queries.items()} for cell, queries in runs.items()}


def _tests(
    one: str,
    mine: Mapping[tuple[str, str], Mapping[str, float]],
    other: str,
    its: Mapping[tuple[str, str], Mapping[str, float]],
) -> list[Row]:
    rows: list[Row] = []
    for (benchmark, metric), queries in mine.items():
        against = its.get((benchmark, metric), {})
        if against.keys() != queries.keys():
            raise ValueError(
                f"{one!r} and {other!r} answered other queries of {benchmark}: {len(queries)} and"
                f" {len(against)}; compare evaluations with the same benchmarks"
            )
        ids = sorted(queries)
        a, b = ([some[query] for query in ids] for some in (queries, against))
        rows.append(
            {
                "benchmark": benchmark,
                "metric": metric,
                "method": one,
                "other": other,
                "difference": float(np.mean(a) - np.mean(b)),
                "p": paired_test(a, b),
                "queries": len(ids),
            }
        )
    return rows


def correlations(
    made: Sequence[Variant], worth: Mapping[str, Mapping[tuple[str, str], Mapping[str, float]]], rounds: int = 1000
) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Pearson's correlation of the variants' numbers with their scores, by benchmark and metric.

    The 95 % interval is a bootstrap over queries: it says what other queries could have given, not other variants.
    """
    some = [one for one in made if one.along is not None]
    x = np.array([one.along for one in some], dtype=np.float64)
    found = {}
    for cell, queries in worth[made[0].label].items():
        ids = sorted(queries)
        values = np.array([[worth[one.label][cell][query] for query in ids] for one in some])
        generator = np.random.default_rng(0)
        draws = [generator.integers(len(ids), size=len(ids)) for _ in range(rounds)]
        means = [values.mean(axis=1), *(values[:, draw].mean(axis=1) for draw in draws)]
        if len(some) < 3 or np.ptp(x) == 0 or any(np.ptp(mean) == 0 for mean in means):
            continue
        links = [float(np.corrcoef(x, mean)[0, 1]) for mean in means]
        low, high = np.percentile(links[1:], [2.5, 97.5])
        found[cell] = (links[0], float(low), float(high))
    return found


def comparison(
    config: CompareConfig, scores: Sequence[Row], tests: Sequence[Row], tagged: bool
) -> tuple[str, list[str], list[list[str]]]:
    """Caption, head and lines of the table; `tagged`: that by kind of edit."""
    tested = list(dict.fromkeys((row["benchmark"], row["metric"]) for row in tests))
    shown = list(dict.fromkeys((row["benchmark"], row["metric"]) for row in scores if ("/" in row["metric"]) == tagged))
    columns = [cell for cell in shown if tagged or not tested or cell in tested]
    papers = [] if tagged else list(dict.fromkeys(name for one in config.variants for name in one.paper))
    values = {(row["method"], row["benchmark"], row["metric"]): row for row in scores}
    found = {(row["method"], row["benchmark"], row["metric"]): row for row in tests}
    lines = []
    for one in config.variants:
        cells = [_cell(values.get((one.label, *cell)), found.get((one.label, *cell))) for cell in columns]
        if one.source is None:
            cells = ["not run" for _ in columns]
        line = [one.label, *cells, *(f"{one.paper[name]:.2f}" if name in one.paper else "" for name in papers)]
        if config.along:
            line.append("" if one.along is None else f"{one.along:.1f}")
        lines.append([*line, one.note])
    seeds = max((row["seeds"] for row in scores), default=1)
    caption = f"{config.title}{', by kind of edit' if tagged else ''}: percent with 95 % interval over queries"
    caption += f", mean of {seeds} seeds" if seeds > 1 else ", one seed"
    if not tagged:
        caption += f"; beside it the difference to {config.variants[0].label!r} and its p-value"
        named = [f"{one.label!r} to {one.against!r}" for one in config.variants if one.source and one.against]
        caption += f", but of {', of '.join(named)}" if named else ""
    head = ["", *(f"{benchmark} {metric}" for benchmark, metric in columns), *(f"paper: {name}" for name in papers)]
    return caption, [*head, *([config.along] if config.along else []), "note"], lines


def _cell(score: Row | None, test: Row | None) -> str:
    if score is None:
        return ""
    text = f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"
    return text if test is None else f"{text}; {test['difference']:+.1f}, p {_p(test['p'])}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown(caption: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The table for a page of text."""
    ruled = [head, ["---", *("---:" for _ in head[1:-1]), "---"], *lines]
    return f"{caption}\n\n" + "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in ruled)
