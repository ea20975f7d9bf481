"""What `evaluate` prints: every method's score with its interval, ties, protocols, paired tests."""

import io
from typing import Any

from rich.table import Table

from flows.results import paired_table, protocol_lines, score_tables
from flows.tables import console


def row(method: str, metric: str, value: float, protocol: str = '{"ties":"official"}') -> dict[str, Any]:
    return {
        "method": method, "benchmark": "circo", "split": "val", "protocol": protocol, "metric": metric,
        "value": value, "low": value - 1.25, "high": value + 1.25, "queries": 220, "seeds": 1,
    }  # fmt: skip


def printed(table: Table) -> list[str]:
    stream = io.StringIO()
    console(stream).print(table)
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_scores_with_intervals_and_ties() -> None:
    long = "spatial_relations_background/map@10"
    rows = [row("image_only", "map@5", 10), row("joint", "map@5", 98.75), row("joint", long, 5)]
    (table,) = score_tables(rows, {"circo/image_only": 3, "circo/joint": 0})
    lines = printed(table)
    assert lines[2:4] == ["image", "metric only joint"]
    assert lines[5:] == [
        "circo val",
        "map@5 10.00 98.75",
        "8.8-11.2 97.5-100",
        "spatial_relations_background/ - 5.00",
        "map@10 3.8-6.2",
        "queries a tie decides 3 0",
        "",
    ]


def test_a_table_for_each_of_several_checkpoints() -> None:
    found = score_tables([row("a/composed", "map@5", 1.25), row("b/composed", "map@5", 2)], {})
    assert [table.title for table in found] == ["a: percent, 95 % interval", "b: percent, 95 % interval"]


def test_what_all_methods_share_is_told_once() -> None:
    joint = row("joint", "map@5", 5, '{"ties":"official","weight":"0.5"}')
    assert protocol_lines([row("composed", "map@5", 5), joint]) == [
        "circo val: ties=official",
        "  joint: weight=0.5",
    ]


def test_paired_tests_of_headlines() -> None:
    tests = [
        {"benchmark": "circo", "metric": metric, "of": ["joint", "composed"], "difference": 1.5, "p": 0.03}
        for metric in ("map@5", "addition/map@10")
    ]
    table = paired_table(tests)
    assert table is not None
    assert "circo map@5 +1.50 p=0.0300" in printed(table)
    assert not any("addition" in line for line in printed(table))
    assert paired_table([]) is None
