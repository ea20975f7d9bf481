"""What `evaluate` prints when it is done: scores, paired tests, where features came from; at most 100 columns wide."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from data.keys import canonical
from tasks.measure import Encoded

# Longer names of metrics are broken after their tag; cells have two lines anyway.
METRIC_WIDTH = 27

Rows = Sequence[Mapping[str, Any]]


def score_tables(rows: Rows, ties: Mapping[str, int]) -> list[Table]:
    """One table, or one per checkpoint where there are several: percent, and the 95 % interval below it.

    Args:
        rows: of `tasks.score_tables.rows`.
        ties: queries that a tie decides, by `benchmark/method`.
    """
    tables = []
    for label in dict.fromkeys(_label(row["method"]) for row in rows):
        mine = [row for row in rows if _label(row["method"]) == label]
        methods = list(dict.fromkeys(row["method"] for row in mine))
        title = f"{label}: percent, 95 % interval" if label else "percent, 95 % interval"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 0, 0, 1), pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for method in methods:
            # Words below each other: six methods then fit beside each other.
            table.add_column(_kind(method).replace("_", "\n"), justify="right", no_wrap=True)
        for name in dict.fromkeys(row["benchmark"] for row in mine):
            some = [row for row in mine if row["benchmark"] == name]
            cells = {(row["metric"], row["method"]): row for row in some}
            table.add_section()
            table.add_row(f"[bold]{name} {some[0]['split']}[/bold]")
            for metric in dict.fromkeys(row["metric"] for row in some):
                table.add_row(_broken(metric), *(_cell(cells.get((metric, method))) for method in methods))
            table.add_row("queries a tie decides", *(str(ties.get(f"{name}/{method}", "-")) for method in methods))
        tables.append(table)
    return tables


def protocol_lines(rows: Rows) -> list[str]:
    """The protocol of each benchmark, and what a method adds to it."""
    lines = []
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        mine = [row for row in rows if row["benchmark"] == name]
        first = json.loads(mine[0]["protocol"])
        # The first method alone may have lost queries: what is told for all is true of all.
        shared = {
            key: value
            for key, value in first.items()
            if all(json.loads(row["protocol"]).get(key) == value for row in mine)
        }
        lines.append(f"{name} {mine[0]['split']}: {_choices(shared)}")
        for method in dict.fromkeys(row["method"] for row in mine):
            own = json.loads(next(row["protocol"] for row in mine if row["method"] == method))
            added = {key: value for key, value in own.items() if key not in shared}
            if added:
                lines.append(f"  {method}: {_choices(added)}")
    return lines


def paired_table(tests: Rows) -> Table | None:
    """Differences in points with their p-values, of the metrics over all queries; None where nothing is compared."""
    headline = [test for test in tests if "/" not in test["metric"] or test["metric"].startswith("average/")]
    if not headline:
        return None
    pairs = list(dict.fromkeys(tuple(test["of"]) for test in headline))
    title = "paired tests: difference in points, p-value of no difference"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    for one, other in pairs:
        table.add_column(f"{one}\nagainst {other}", justify="right")
    cells = {(test["benchmark"], test["metric"], tuple(test["of"])): test for test in headline}
    for name, metric in dict.fromkeys((test["benchmark"], test["metric"]) for test in headline):
        found = [cells.get((name, metric, pair)) for pair in pairs]
        told = ("-" if test is None else f"{test['difference']:+.2f}  p={test['p']:.4f}" for test in found)
        table.add_row(f"{name} {metric}", *told)
    return table


def features_table(encoded: Sequence[Encoded]) -> Table:
    """Which image features were computed and which were in the store."""
    table = Table(box=box.SIMPLE_HEAD, title="image features", title_justify="left")
    for name in ("checkpoint", "benchmark", "images", "state", "key"):
        table.add_column(name, justify="right" if name == "images" else "left")
    for one in encoded:
        table.add_row(one.checkpoint, one.benchmark, f"{one.images:,}", one.state, one.key[:12])
    return table


def _label(method: str) -> str:
    return method.rpartition("/")[0]


def _kind(method: str) -> str:
    return method.rpartition("/")[2]


def _broken(metric: str) -> str:
    tag, slash, plain = metric.partition("/")
    return f"{tag}/\n{plain}" if slash and len(metric) > METRIC_WIDTH else metric


def _cell(row: Mapping[str, Any] | None) -> str:
    """A dash where no query that a method answered carries the metric."""
    if row is None:
        return "-"
    return f"{row['value']:.2f}\n[dim]{_short(row['low'])}-{_short(row['high'])}[/dim]"


def _short(percent: float) -> str:
    return "100" if percent > 99.95 else f"{percent:.1f}"


def _choices(protocol: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value if isinstance(value, str) else canonical(value)}" for key, value in protocol.items()
    )
