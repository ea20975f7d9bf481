"""What the report says of the run as a whole: stages, scores, training, similarity by rank."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from data.artifact import Artifact
from data.schemas import PAIRS, RANKING
from tasks.report_cards import sampled
from tasks.report_plots import Band, Interval, Line, intervals, lines, scatter, shares, thinned

METHODS = {
    "image_only": "image only",
    "text_only": "text only",
    "image_text": "image + text",
    "target_text": "target text",
    "target_text_trained": "target text, trained",
    "composed": "composed",
    "joint": "joint",
}
TRAINED = ("target_text_trained", "composed", "joint")
# References behind the similarity curve; more would not change its look.
REFERENCES = 300


@dataclass(frozen=True)
class StageRow:
    """A line of the table of stages."""

    name: str
    counts: Any
    seconds: float
    key: str
    figures: list[tuple[str, str]]


@dataclass(frozen=True)
class ScoreTable:
    """Metrics of one benchmark: rows are metrics, columns methods; a cell is a row of `SCORES`, or None."""

    benchmark: str
    caption: str
    methods: list[tuple[str, str]]
    rows: list[tuple[str, list[Mapping[str, Any] | None]]]
    best: list[float]
    tags: bool = False


def stage_row(artifact: Artifact) -> StageRow:
    """Counts, time and further figures of a stage, from its manifest."""
    figures = list(flattened(artifact.counts.detail))
    return StageRow(artifact.stage, artifact.counts, artifact.manifest["seconds"], artifact.key[:12], figures)


def yield_chart(artifacts: Sequence[Artifact]) -> Markup | None:
    """What share of its rows each stage kept; None if all kept all."""
    counted = [(one.stage, one.counts) for one in artifacts if one.counts.read]
    if not any(counts.dropped for _, counts in counted):
        return None
    rows = [
        (stage, 100 * counts.kept / counts.read, f"{counts.kept:,} of {counts.read:,}") for stage, counts in counted
    ]
    told = "; ".join(f"{stage} kept {percent:.1f} %, {words}" for stage, percent, words in rows)
    return shares("Rows that each stage kept", f"{told}.", "percent", rows)


def flattened(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested figures as names and texts; long lists, made for charts, are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flattened(inner, f"{name}, {key}" if name else str(key))
    elif isinstance(value, list):
        if len(value) <= 4 and not any(isinstance(item, list | dict) for item in value):
            yield name, " to ".join(written(item) for item in value) if len(value) == 2 else written(value)
    else:
        yield name, written(value)


def written(value: object) -> str:
    """A figure as one writes it: four digits of a fraction, thousands apart."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(written(item) for item in value)
    return str(value)


def score_tables(scores: Sequence[Mapping[str, Any]]) -> list[ScoreTable]:
    """Two tables per benchmark: its metrics, and where queries carry tags, one metric by tag."""
    found = []
    for benchmark, split in dict.fromkeys((row["benchmark"], row["split"]) for row in scores):
        rows = [row for row in scores if (row["benchmark"], row["split"]) == (benchmark, split)]
        for tags in (False, True):
            chosen = [row for row in rows if ("/" in row["metric"]) == tags]
            if chosen:
                found.append(_score_table(benchmark, split, chosen, tags))
    return found


def _score_table(benchmark: str, split: str, rows: Sequence[Mapping[str, Any]], tags: bool) -> ScoreTable:
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells = {(row["metric"], row["method"]): row for row in rows}
    seeds = {row["method"]: row["seeds"] for row in rows}
    labels = [
        METHODS[name] if seeds[name] == 1 else f"{METHODS[name]}, mean of {seeds[name]} seeds" for name in methods
    ]
    body = [(metric, [cells.get((metric, name)) for name in methods]) for metric in metrics]
    if tags:
        caption = f"{benchmark} ({split}): {metrics[0].partition('/')[0]} by kind of edit"
        body = [(metric.partition("/")[2], line) for metric, line in body]
    else:
        protocol = ", ".join(f"{name}: {choice}" for name, choice in json.loads(rows[0]["protocol"]).items())
        caption = f"{benchmark} ({split}): {max(row['queries'] for row in rows):,} queries; {protocol}"
    best = [max(cell["value"] for cell in line if cell is not None) for _, line in body]
    return ScoreTable(benchmark, caption, list(zip(methods, labels, strict=True)), body, best, tags)


def headlines(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per benchmark: the trained retriever beside the best method that needs no training."""
    sentences = []
    for table in score_tables(scores):
        if table.tags:
            continue
        metric, line = table.rows[0]
        known = [cell for cell in line if cell is not None]
        trained = [cell for cell in known if cell["method"] in TRAINED]
        plain = [cell for cell in known if cell["method"] not in TRAINED]
        for one in trained:
            words = f"{table.benchmark}: {METHODS[one['method']]} reaches {metric} of {one['value']:.1f} %"
            words += f" ({one['low']:.1f} to {one['high']:.1f})"
            if plain:
                best = max(plain, key=lambda cell: float(cell["value"]))
                words += f"; the best baseline, {METHODS[best['method']]}, {best['value']:.1f} %"
                if 0 < best["value"] <= one["value"]:
                    words += f", so {one['value'] / best['value']:.1f} times as much"
            sentences.append(words + ".")
    return sentences


def interval_chart(table: ScoreTable) -> Markup:
    """A benchmark's headline metric by method, with 95 % intervals."""
    metric, line = table.rows[0]
    known = [cell for cell in line if cell is not None]
    rows = [
        Interval(METHODS[cell["method"]], cell["value"], cell["low"], cell["high"], int(cell["method"] in TRAINED))
        for cell in known
    ]
    told = "; ".join(f"{row.name} {row.value:.1f} ({row.low:.1f} to {row.high:.1f})" for row in rows)
    return intervals(f"{table.benchmark}: {metric}", f"{told}.", f"{metric}, percent, with 95 % interval", rows)


def training_charts(history: pa.Table) -> list[Markup]:
    """Loss, and recall on the held-out references, by step; a line per seed."""
    seeds = sorted(set(history["seed"].to_pylist()))
    rows = history.to_pylist()
    losses, recalls = [], []
    for place, seed in enumerate(seeds):
        mine = [row for row in rows if row["seed"] == seed]
        loss = [(row["step"], row["loss"]) for row in mine if _finite(row["loss"])]
        losses.append(Line(f"seed {seed}", thinned(loss), place, place % 4))
        for dash, metric in enumerate(("val_recall@1", "val_recall@10")):
            points = [(row["step"], row[metric]) for row in mine if _finite(row[metric])]
            recalls.append(Line(f"seed {seed}, {metric.removeprefix('val_')}", points, place, dash))
    charts = []
    if any(line.points for line in losses):
        told = "; ".join(f"{line.name} ends at {line.points[-1][1]:.3f}" for line in losses if line.points)
        charts.append(lines("Training loss", f"{told}.", "step", "loss, nats", losses))
    if any(line.points for line in recalls):
        told = "; ".join(f"{line.name} ends at {line.points[-1][1]:.1f} %" for line in recalls if line.points)
        charts.append(lines("Recall on held-out references", f"{told}.", "step", "recall, percent", recalls))
    return charts


def similarity_chart(pairs: Artifact, ranking: Artifact | None, count: int, seed: int) -> Markup | None:
    """Similarity against rank: sampled pairs, over the middle 80 % of what references see at each rank."""
    total, rows = sampled(pairs.file("pairs.parquet"), PAIRS, count, seed)
    if not rows:
        return None
    points = [(float(row["rank"]), float(row["score"])) for row in rows]
    band = Band("all candidates: median and middle 80 %", [] if ranking is None else _by_rank(ranking, rows))
    ranks, scores = [int(rank) for rank, _ in points], [score for _, score in points]
    told = (
        f"{len(points):,} of {total:,} pairs, at ranks {min(ranks)} to {max(ranks)}, have similarities of"
        f" {min(scores):.3f} to {max(scores):.3f}."
    )
    return scatter("Similarity by rank", told, "rank", "similarity", points, f"{len(points):,} sampled pairs", band)


def _by_rank(ranking: Artifact, rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float, float]]:
    """Rank, 10th, 50th and 90th percentile of the score, over the references of some pairs."""
    wanted = pa.array([row["reference_id"] for row in rows[:REFERENCES]], pa.string())
    parts = []
    with pq.ParquetFile(ranking.file("ranking.parquet"), memory_map=True) as file:
        if not file.schema_arrow.equals(RANKING, check_metadata=False):
            raise ValueError(f"{ranking.path} has another schema than expected; run {ranking.stage} again")
        for batch in file.iter_batches(columns=["reference_id", "rank", "score"]):
            parts.append(batch.filter(pc.is_in(batch["reference_id"], value_set=wanted)))
    table = pa.Table.from_batches(parts)
    found = []
    for rank in sorted(set(table["rank"].to_pylist())):
        scores = table.filter(pc.equal(table["rank"], rank))["score"]
        low, middle, high = pc.quantile(scores, [0.1, 0.5, 0.9]).to_pylist()
        found.append((float(rank), low, middle, high))
    return found


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
