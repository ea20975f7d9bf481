"""Query texts: what a model says each query of some benchmarks is looking for, for joint inference."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, JsonValue

import prompts
from data.artifact import Artifact, Counts, write_table
from data.benchmarks import Benchmark, load_benchmark
from data.config import Resources, StageConfig
from data.schemas import REJECTED
from models.backends import locate_model
from tasks.stage import stage
from tasks.target_texts import TargetTextConfig, write_target_texts

QUERY_TEXTS = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


class QueryTextsConfig(StageConfig):
    """Whose queries, and who writes."""

    benchmarks: tuple[str, ...]
    split: str
    options: dict[str, dict[str, JsonValue]] = Field({}, description="by benchmark: what its file asks for")
    writer: TargetTextConfig

    def load(self) -> list[Benchmark]:
        """The benchmarks, in their order."""
        return [load_benchmark(name, self.split, **self.options.get(name, {})) for name in self.benchmarks]


def query_texts_facts(config: QueryTextsConfig) -> dict[str, Any]:
    """What the config only names: benchmarks, the model's revision and the prompt."""
    return {
        "benchmarks": {benchmark.name: benchmark.digest for benchmark in config.load()},
        "revision": locate_model(config.writer.backend, config.writer.model).revision,
        "prompt": prompts.load(config.writer.prompt).digest,
    }


@stage(version=2, facts=query_texts_facts)
def query_texts(out: Path, config: QueryTextsConfig, *, resources: Resources) -> Counts:
    """Write texts.parquet, the target texts by benchmark and query, rejected.parquet and generations.parquet.

    Rows are queries; one without a usable answer is dropped under the reason. Answers come from the ledger where it
    has them.
    """
    benchmarks = config.load()
    found = write_target_texts(benchmarks, config.writer, resources, out / "generations.parquet")
    texts = [
        {"benchmark": name, "query_id": query_id, "text": found.texts[name][query_id]}
        for name in found.texts
        for query_id in sorted(found.texts[name])
    ]
    write_table(out / "texts.parquet", pa.Table.from_pylist(texts, schema=QUERY_TEXTS), QUERY_TEXTS)
    faults = [
        {"row_id": f"{name}/{query_id}", "stage": "query_texts", "reason": reason, "detail": raw}
        for name, lost in found.faults.items()
        for query_id, (reason, raw) in sorted(lost.items())
    ]
    write_table(out / "rejected.parquet", pa.Table.from_pylist(faults, schema=REJECTED), REJECTED)
    dropped: dict[str, int] = {}
    for fault in faults:
        dropped[fault["reason"]] = dropped.get(fault["reason"], 0) + 1
    return Counts(
        read=sum(len(benchmark.queries) for benchmark in benchmarks),
        kept=len(texts),
        dropped=dropped,
        written=len(texts),
        detail={"writer": found.writer, "asked": found.asked, "reused": found.reused},
    )


def texts_of(artifact: Artifact, benchmark: Benchmark) -> tuple[list[str], int]:
    """A text for each query of a benchmark, in its order, and for how many that is the modification for want of one.

    Raises:
        ValueError: if the texts are of another benchmark or split.
    """
    config = artifact.manifest["config"]
    digests = artifact.manifest["facts"]["benchmarks"]
    if digests.get(benchmark.name) != benchmark.digest:
        raise ValueError(
            f"{artifact.path} has target texts for {', '.join(digests)} ({config['split']}), not for the queries of"
            f" {benchmark.name} ({benchmark.split}) as they are now; run query_texts for it"
        )
    rows = artifact.read(QUERY_TEXTS, "texts.parquet").to_pylist()
    known = {row["query_id"]: str(row["text"]) for row in rows if row["benchmark"] == benchmark.name}
    texts = [known.get(query.query_id, query.modification) for query in benchmark.queries]
    return texts, sum(query.query_id not in known for query in benchmark.queries)
