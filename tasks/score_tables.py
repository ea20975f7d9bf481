"""What an evaluation writes: tables of scores in four formats, predictions, and the test servers' files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.artifact import write_atomically, write_json, write_table
from data.keys import canonical
from data.protocols import Answer, predictions_table, scores_table
from data.schemas import PREDICTIONS, SCORES
from data.scoring import compare
from data.submissions import FILES, write_submission
from tasks.measure import COMPOSED, JOINT, TARGET_TEXT, Evaluation, Measured
from tasks.target_texts import TargetTexts


@dataclass(frozen=True)
class Results:
    """What was found, in numbers.

    Attributes:
        scores: rows of `SCORES`.
        tests: see `paired`.
        ties: queries of which some value depends on the order of equal scores, by `benchmark/method`.
    """

    scores: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    ties: dict[str, int]


def results(measured: Sequence[Measured]) -> Results:
    """Score and compare; some seconds for large benchmarks, because everything is drawn anew a thousand times."""
    ties = {f"{one.prepared.annotations.name}/{one.method}": one.outcome.ties for one in measured}
    return Results(rows(measured), paired(measured), ties)


def rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Rows of `SCORES`; a metric that no query carries has none."""
    found: list[dict[str, Any]] = []
    for one in measured:
        annotations, result = one.prepared.annotations, one.outcome
        for metric in result.metrics:
            value, interval = result.percent(metric), result.interval(metric)
            if value is None or interval is None:
                continue
            carriers = {int(row) for term in result.terms(metric) for row in result.carriers(term)}
            found.append(
                {
                    "method": one.method,
                    "benchmark": annotations.name,
                    "split": annotations.split,
                    "protocol": canonical(one.protocol),
                    "metric": metric,
                    "value": value,
                    "low": interval[0],
                    "high": interval[1],
                    "queries": len(carriers),
                    "seeds": 1,
                }
            )
    return found


def paired(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Differences in points and p-values of "equally good", by a paired test over queries.

    The composed and the joint queries of the first checkpoint are compared with those of each other one; within a
    checkpoint, joint with either of its parts. Methods that answered other queries are not compared.
    """
    found: list[dict[str, Any]] = []
    for one in measured:
        for other in measured:
            if _compared(one, other):
                of = [one.method, other.method]
                name = one.prepared.annotations.name
                mine, its = one.outcome, other.outcome
                for metric, p in compare(mine, its).items():
                    first, second = mine.percent(metric), its.percent(metric)
                    if p is not None and first is not None and second is not None:
                        found.append(
                            {"benchmark": name, "metric": metric, "of": of, "difference": first - second, "p": p}
                        )
    return found


def _compared(one: Measured, other: Measured) -> bool:
    mine, its = one.prepared.annotations, other.prepared.annotations
    if mine.name != its.name or not mine.metrics or len(mine.queries) != len(its.queries):
        return False
    if one.checkpoint == other.checkpoint:
        return one.kind == JOINT and other.kind in (COMPOSED, TARGET_TEXT)
    return one.first and not other.first and one.kind == other.kind and one.kind in (COMPOSED, JOINT)


def write(out: Path, evaluation: Evaluation, found: Results, depth: int) -> tuple[list[Path], list[str]]:
    """Write scores (Parquet, JSON, Markdown, LaTeX), predictions (Parquet), target texts and servers' files.

    Returns:
        The files, and why a server's file was not written.
    """
    out.mkdir(parents=True, exist_ok=True)
    measured = evaluation.measured
    write_table(out / "scores.parquet", scores_table(found.scores), SCORES)
    content = {
        "scores": found.scores,
        "ties": found.ties,
        "paired": found.tests,
        "features": [asdict(one) for one in evaluation.encoded],
        "texts_cut": evaluation.cut,
    }
    write_json(out / "scores.json", content)
    write_text(out / "scores.md", markdown(found.scores, found.ties))
    write_text(out / "scores.tex", latex(found.scores, found.ties))
    shown = [replace(one, answers=tuple(cut(answer, depth) for answer in one.answers)) for one in measured]
    predictions = [predictions_table(one.method, one.prepared.benchmark, None, one.answers) for one in shown]
    write_table(out / "predictions.parquet", pa.concat_tables(predictions), PREDICTIONS)
    files = [out / name for name in ("scores.parquet", "scores.json", "scores.md", "scores.tex", "predictions.parquet")]
    if evaluation.texts is not None:
        write_json(out / "target_texts.json", texts_content(evaluation.texts))
        files.append(out / "target_texts.json")
    submissions, notes = write_submissions(out / "submissions", measured)
    return files + submissions, notes


def write_submissions(folder: Path, measured: Sequence[Measured]) -> tuple[list[Path], list[str]]:
    """Write the test servers' files of the composed and the joint queries, in a folder for each.

    Returns:
        The files, and a note for each method that lost queries: a server wants all of them.
    """
    files: list[Path] = []
    notes = []
    for one in measured:
        annotations, lost = one.prepared.annotations, len(one.prepared.complete.lost_queries)
        if annotations.name not in FILES or annotations.metrics or one.kind not in (COMPOSED, JOINT):
            continue
        if lost:
            notes.append(
                f"no submission files of {one.method} for {annotations.name}: {lost} queries are lost with missing"
                " images, and its server wants all"
            )
            continue
        ranked = {answer.query.query_id: answer.ranked for answer in one.answers}
        files += write_submission(folder / one.method, annotations, ranked)
    return files, notes


def texts_content(texts: TargetTexts) -> dict[str, Any]:
    """The target texts by benchmark and query, and those that there are none of, with the reason and raw answer."""
    faults = {
        name: {one: {"reason": reason, "raw": raw} for one, (reason, raw) in lost.items()}
        for name, lost in texts.faults.items()
    }
    return {"writer": texts.writer, "texts": {name: dict(one) for name, one in texts.texts.items()}, "without": faults}


def cut(answer: Answer, depth: int) -> Answer:
    """An answer's first images."""
    return replace(answer, ranked=answer.ranked[:depth], scores=answer.scores[:depth])


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def grid(table: Sequence[Mapping[str, Any]], ties: Mapping[str, int]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Per benchmark: a title with split and protocol, the methods, and a line of cells per metric, at last the ties.

    The title gives the protocol of the first method, and of the others what they add to it.
    """
    found = []
    for name in dict.fromkeys(str(row["benchmark"]) for row in table):
        mine = [row for row in table if row["benchmark"] == name]
        methods = list(dict.fromkeys(str(row["method"]) for row in mine))
        cells = {(row["metric"], row["method"]): row for row in mine}
        lines = []
        for metric in dict.fromkeys(str(row["metric"]) for row in mine):
            lines.append([metric, *(_cell(cells.get((metric, method))) for method in methods)])
        lines.append(["queries a tie decides", *(str(ties.get(f"{name}/{method}", "-")) for method in methods)])
        first = json.loads(mine[0]["protocol"])
        title = f"{name} {mine[0]['split']}, {mine[0]['protocol']}"
        for method in methods:
            own = json.loads(next(row["protocol"] for row in mine if row["method"] == method))
            added = {key: value for key, value in own.items() if first.get(key) != value}
            title += f"; {method}: {canonical(added)}" if added else ""
        found.append((title, methods, lines))
    return found


def _cell(row: Mapping[str, Any] | None) -> str:
    """Percent with interval; a dash where no query that a method answered carries the metric."""
    return "-" if row is None else f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def markdown(table: Sequence[Mapping[str, Any]], ties: Mapping[str, int]) -> str:
    """One Markdown table per benchmark: percent, with 95 % intervals."""
    parts = []
    for title, methods, lines in grid(table, ties):
        head = ["metric", *methods]
        body = [head, ["---", *("---:" for _ in methods)], *lines]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in body) + "\n")
    return "\n".join(parts)


def latex(table: Sequence[Mapping[str, Any]], ties: Mapping[str, int]) -> str:
    """One LaTeX tabular (booktabs) per benchmark."""
    parts = []
    for title, methods, lines in grid(table, ties):
        body = [" & ".join(map(_escaped, line)) + r" \\" for line in (["metric", *methods], *lines)]
        top, *rest = body
        whole = [rf"% {title}", rf"\begin{{tabular}}{{l{'r' * len(methods)}}}", r"\toprule", top, r"\midrule", *rest]
        parts.append("\n".join([*whole, r"\bottomrule", r"\end{tabular}", ""]))
    return "\n".join(parts)


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")
