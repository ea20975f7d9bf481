"""The tables that end a run, at most 100 columns wide."""

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from tasks.display import dropped_by_reason
from tasks.runs import RunRecord

_WIDTH = 100
_METHODS = ("image_only", "text_only", "image_text", "target_text", "target_text_trained", "composed", "joint")


def console(stream: TextIO | None = None) -> Console:
    """A console for results: as wide as the terminal, but at most 100 columns; 100 where there is none."""
    stream = stream or sys.stdout
    width = min(_WIDTH, Console(file=stream).width) if stream.isatty() else _WIDTH
    return Console(file=stream, width=width, highlight=False)


def stage_table(record: RunRecord) -> Table:
    """What became of every stage's rows."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{record.recipe}, run {record.run}", title_justify="left")
    for name in ("stage", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("rows in", "kept"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("dropped", overflow="fold")
    for name in ("written", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in record.stages:
        seconds = "" if row.seconds is None else f"{row.seconds:,.1f}"
        numbers = ["" if number is None else f"{number:,}" for number in (row.read, row.kept, row.written)]
        dropped = dropped_by_reason(row.dropped, "\n") or ("" if row.read is None else "0")
        table.add_row(row.stage, row.state, *numbers[:2], dropped, numbers[2], seconds)
    return table


def score_tables(scores: Sequence[dict[str, Any]]) -> list[Table]:
    """One table per benchmark: methods down, metrics across, values in percent."""
    tables = []
    for benchmark, split in dict.fromkeys((row["benchmark"], row["split"]) for row in scores):
        rows = [row for row in scores if (row["benchmark"], row["split"]) == (benchmark, split)]
        # Figures per kind of edit ("recall@1/colour") are in the report: the terminal has room for the headlines.
        metrics = list(dict.fromkeys(row["metric"] for row in rows if "/" not in row["metric"]))
        methods = sorted(dict.fromkeys(row["method"] for row in rows), key=_place)
        values = {(row["method"], row["metric"]): row for row in rows}
        queries = max(row["queries"] for row in rows)
        title = f"{benchmark} ({split}, {queries:,} queries), percent"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        table.add_column("method", no_wrap=True)
        for metric in metrics:
            short = metric.replace("subset_recall", "subset R").replace("recall", "R").replace("map", "mAP")
            table.add_column(short, justify="right")
        for method in methods:
            found = [values.get((method, metric)) for metric in metrics]
            seeds = max((row["seeds"] for row in found if row), default=1)
            label = method if seeds <= 1 else f"{method} (mean of {seeds})"
            table.add_row(label, *("" if row is None else f"{row['value']:.1f}" for row in found))
        tables.append(table)
    return tables


def _place(method: str) -> int:
    """Known methods in their order; others, such as a study's variants, stay in theirs behind them."""
    return _METHODS.index(method) if method in _METHODS else len(_METHODS)
