"""Stages that stand in for those with networks, so that a study's wiring runs in seconds."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from data.artifact import Artifact, Counts, write_table
from data.config import Resources
from data.draws import lot
from data.schemas import IMAGES, RANKING, SCORES, VALUES
from tasks.encode import EncodeConfig
from tasks.evaluate import EvaluateConfig
from tasks.mine import MineConfig
from tasks.query_texts import QueryTextsConfig
from tasks.rank import RankConfig
from tasks.stage import stage
from tasks.train import TrainConfig

QUERIES = 12


@stage()
def encode(out: Path, config: EncodeConfig, images: Artifact, *, resources: Resources) -> Counts:
    return Counts(read=images.counts.written, kept=images.counts.written, written=0)


@stage()
def rank(out: Path, config: RankConfig, tokens: Artifact, *, resources: Resources) -> Counts:
    """Every image is followed by those behind it, in a circle."""
    ids = [f"{place:07d}" for place in range(tokens.counts.read)]
    rows = [
        {"reference_id": one, "rank": step, "candidate_id": ids[(at + step) % len(ids)], "score": 1 - step / 100}
        for at, one in enumerate(ids)
        for step in range(1, len(ids))
    ]
    write_table(out / "ranking.parquet", pa.Table.from_pylist(rows, schema=RANKING), RANKING)
    return Counts(read=len(ids), kept=len(ids), written=len(rows))


@stage()
def mine(out: Path, config: MineConfig, triplets: Artifact, ranking: Artifact, tokens: Artifact) -> Counts:
    shutil.copy(triplets.file("triplets.parquet"), out / "triplets.parquet")
    return triplets.counts


@stage()
def train(
    out: Path,
    config: TrainConfig,
    triplets: Artifact,
    images: Artifact,
    tokens: Artifact,
    started: Artifact | None = None,
    *,
    resources: Resources,
) -> Counts:
    kept = triplets.counts.written
    assert images.read(IMAGES, "images.parquet").num_rows
    return Counts(read=kept, kept=kept, written=1, detail={"training": kept, "steps": 7.0})


@stage()
def query_texts(out: Path, config: QueryTextsConfig, *, resources: Resources) -> Counts:
    return Counts(read=QUERIES, kept=QUERIES, written=QUERIES)


@stage()
def evaluate(
    out: Path,
    config: EvaluateConfig,
    trained: Artifact,
    tokens: Artifact,
    texts: Artifact | None = None,
    others: Mapping[str, Artifact] | None = None,
    *,
    resources: Resources,
) -> Counts:
    """Answers drawn by lot, of the methods that there are."""
    told = ["target_text", "target_text_trained", "joint"] if texts is not None else []
    methods = [*config.baselines, "composed", *told]
    methods += others or {}
    values = [
        {
            "method": method, "benchmark": benchmark, "seed": 0, "metric": "recall@1", "query_id": f"q{query}",
            "tags": [], "value": float(lot(trained.key + method, 0, f"{benchmark}/{query}") % 2),
        }
        for benchmark in config.benchmarks
        for method in methods
        for query in range(QUERIES)
    ]  # fmt: skip
    scores = [
        {
            "method": method, "benchmark": benchmark, "split": "val", "protocol": "{}", "metric": "recall@1",
            "value": 50.0, "low": 40.0, "high": 60.0, "queries": QUERIES, "seeds": 1,
        }
        for benchmark in config.benchmarks
        for method in methods
    ]  # fmt: skip
    write_table(out / "values.parquet", pa.Table.from_pylist(values, schema=VALUES), VALUES)
    write_table(out / "scores.parquet", pa.Table.from_pylist(scores, schema=SCORES), SCORES)
    return Counts(read=QUERIES, kept=QUERIES, written=len(scores))
