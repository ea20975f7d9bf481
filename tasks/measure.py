"""Measure checkpoints on the real benchmarks, by their official protocols, and write what came of it."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

import prompts
from data.annotations import Annotations, choose
from data.artifact import write_atomically, write_json, write_table
from data.benchmarks import Benchmark
from data.config import Resources
from data.keys import canonical
from data.official import OfficialJudge, outcome, restrict
from data.presence import Complete, check_images
from data.progress import progress
from data.protocols import Answer, predictions_table, scores_table
from data.schemas import PREDICTIONS, SCORES
from data.scoring import Outcome, compare
from data.submissions import FILES, write_submission
from models.baselines import Baseline
from models.encoders import load_encoder
from tasks.store import home

COMPOSED = "composed"


@dataclass(frozen=True)
class Prepared:
    """A benchmark that is ready to be measured: annotations, images, and what it lost."""

    annotations: Annotations
    complete: Complete

    @property
    def benchmark(self) -> Benchmark:
        return self.complete.benchmark

    @property
    def protocol(self) -> dict[str, str]:
        """All choices, and the losses if there are any."""
        return dict(self.benchmark.protocol)


@dataclass(frozen=True)
class Measured:
    """The answers of one method to one benchmark."""

    prepared: Prepared
    method: str
    answers: tuple[Answer, ...]

    @property
    def outcome(self) -> Outcome:
        return outcome(self.prepared.annotations, self.answers)


def wording(text: str) -> Any:
    """GeneCIS' texts: from the templates of `prompts/genecis`, or the bare condition (`text=condition`)."""

    def worded(task: str, condition: str) -> str:
        return prompts.load(f"genecis/{task}").render(condition=condition) if text == "template" else condition

    return worded


def prepare(
    name: str, split: str, root: Path, choices: Mapping[str, str], allow_missing: bool, resources: Resources
) -> Prepared:
    """Load a benchmark and look at every one of its images.

    Raises:
        WrongRoot, BrokenAnnotations, LookupError, ValueError: from loader and protocol.
        MissingImages: unless `allow_missing`.
    """
    module = importlib.import_module(f"data.benchmarks.{name}")
    protocol = choose(name, module.PROTOCOL, choices)
    more = {"wording": wording(protocol.text)} if name == "genecis" else {}
    annotations: Annotations = module.read(split, root, protocol, **more)
    benchmark: Benchmark = module.load(split, root=root, **choices, **more)
    complete = check_images(benchmark, allow_missing, resources.workers)
    return Prepared(restrict(annotations, complete.benchmark), complete)


def measure(
    prepared: Sequence[Prepared],
    checkpoints: Mapping[str, str],
    baselines: Sequence[Baseline],
    depth: int,
    scratch: Path,
    resources: Resources,
) -> list[Measured]:
    """Answer every query with every checkpoint.

    The features of a vision tower are kept below the store's home, by benchmark, and used again by every checkpoint
    with the same tower. Scores are computed in tiles; no device holds a gallery.

    Args:
        prepared: the benchmarks.
        checkpoints: by label. With one, methods are named plainly, with several `label/method`.
        baselines: methods beside the composed query.
        depth: ranked images to keep per answer; all of them where a submission needs them.
        scratch: folder for the image tokens of one checkpoint.
        resources: batch size, workers, device.
    """
    from tasks.answers import baseline_answers, composed_answers  # torch takes seconds to import
    from tasks.pictures import Pictures

    found: list[Measured] = []
    pictures = [Pictures(one.benchmark, home() / "towers" / one.benchmark.digest[:20], resources) for one in prepared]
    work = sum(2 * len(one.ids) + (1 + len(baselines)) * len(one.benchmark.queries) for one in pictures)
    path = scratch / "tokens.npy"
    with progress(len(checkpoints) * work, "images and answers") as advance:
        for label, checkpoint in checkpoints.items():
            encoder = load_encoder(checkpoint, resources.device)
            head = f"{label}/" if len(checkpoints) > 1 else ""
            for one, seen in zip(prepared, pictures, strict=True):
                # CIRR's second file ranks the members of a set, which may lie anywhere in the ranking.
                whole = one.annotations.name == "cirr" and not one.annotations.metrics
                judge = OfficialJudge(one.annotations, one.benchmark, len(one.benchmark.gallery) if whole else depth)
                if baselines:
                    answers = baseline_answers(encoder, seen, baselines, depth, path, advance, judge)
                    found += [Measured(one, head + method, given) for method, given in answers.items()]
                composed = composed_answers(encoder, seen, depth, path, advance, judge)
                found.append(Measured(one, head + COMPOSED, composed))
    path.unlink(missing_ok=True)
    return found


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
                    "protocol": canonical(one.prepared.protocol),
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
    """p-values of "equally good" between the composed queries of the first checkpoint and of each other one."""
    found: list[dict[str, Any]] = []
    composed = [one for one in measured if one.method.endswith(f"/{COMPOSED}") and one.prepared.annotations.metrics]
    for name in dict.fromkeys(one.prepared.annotations.name for one in composed):
        first, *others = (one for one in composed if one.prepared.annotations.name == name)
        for other in others:
            for metric, p in compare(first.outcome, other.outcome).items():
                if p is not None:
                    found.append({"benchmark": name, "metric": metric, "of": [first.method, other.method], "p": p})
    return found


def write(out: Path, measured: Sequence[Measured], depth: int) -> list[Path]:
    """Write scores (Parquet, JSON, Markdown, LaTeX), predictions (Parquet) and the test servers' files.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = rows(measured)
    write_table(out / "scores.parquet", scores_table(table), SCORES)
    ties = {f"{one.prepared.annotations.name}/{one.method}": one.outcome.ties for one in measured}
    write_json(out / "scores.json", {"scores": table, "ties": ties, "paired": paired(measured)})
    write_text(out / "scores.md", markdown(table))
    write_text(out / "scores.tex", latex(table))
    shown = [replace(one, answers=tuple(cut(answer, depth) for answer in one.answers)) for one in measured]
    predictions = [predictions_table(one.method, one.prepared.benchmark, None, one.answers) for one in shown]
    write_table(out / "predictions.parquet", pa.concat_tables(predictions), PREDICTIONS)
    files = [out / name for name in ("scores.parquet", "scores.json", "scores.md", "scores.tex", "predictions.parquet")]
    for one in measured:
        annotations = one.prepared.annotations
        if annotations.name in FILES and not annotations.metrics and one.method.endswith(COMPOSED):
            ranked = {answer.query.query_id: answer.ranked for answer in one.answers}
            files += write_submission(out / "submissions" / one.method, annotations, ranked)
    return files


def cut(answer: Answer, depth: int) -> Answer:
    """An answer's first images."""
    return replace(answer, ranked=answer.ranked[:depth], scores=answer.scores[:depth])


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def grid(table: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Per benchmark: a title with split and protocol, the methods, and a line of cells per metric."""
    found = []
    for name in dict.fromkeys(str(row["benchmark"]) for row in table):
        mine = [row for row in table if row["benchmark"] == name]
        methods = list(dict.fromkeys(str(row["method"]) for row in mine))
        cells = {(row["metric"], row["method"]): row for row in mine}
        lines = []
        for metric in dict.fromkeys(str(row["metric"]) for row in mine):
            given = [cells[metric, method] for method in methods]
            lines.append([metric, *(f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in given)])
        found.append((f"{name} {mine[0]['split']}, {mine[0]['protocol']}", methods, lines))
    return found


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown table per benchmark: percent, with 95 % intervals."""
    parts = []
    for title, methods, lines in grid(table):
        head = ["metric", *methods]
        body = [head, ["---", *("---:" for _ in methods)], *lines]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in body) + "\n")
    return "\n".join(parts)


def latex(table: Sequence[Mapping[str, Any]]) -> str:
    """One LaTeX tabular (booktabs) per benchmark."""
    parts = []
    for title, methods, lines in grid(table):
        body = [" & ".join(map(_escaped, line)) + r" \\" for line in (["metric", *methods], *lines)]
        top, *rest = body
        whole = [rf"% {title}", rf"\begin{{tabular}}{{l{'r' * len(methods)}}}", r"\toprule", top, r"\midrule", *rest]
        parts.append("\n".join([*whole, r"\bottomrule", r"\end{tabular}", ""]))
    return "\n".join(parts)


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")
