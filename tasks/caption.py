"""Caption: a sentence for every image, written by a model; what captions are ranked by, where no source gives any."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, JsonValue, NonNegativeInt, model_validator

import prompts
from data.artifact import Artifact, Counts, write_table
from data.config import Resources, StageConfig
from data.progress import progress
from data.schemas import GENERATIONS, REJECTED
from models.backends import Engine, Sampling, load_backend, locate_model
from tasks.asking import Asker, Figures
from tasks.plans import fitting
from tasks.pool import Pool
from tasks.replies import Rejected
from tasks.requests import Question, Terms
from tasks.spill import SortedTable
from tasks.stage import stage
from tasks.store import home

CAPTIONS = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("caption", pa.string(), nullable=False)]
)
"""One row per captioned image, ordered by id."""


class CaptionConfig(StageConfig):
    """Who writes, and how its answers are drawn; with what generate has here, its captions are paid for once."""

    backend: str = Field("vllm", description="a file of models/backends")
    model: str = Field("tiny_llava", description="a folder of models/checkpoints, any folder, or a Hugging Face id")
    prompt: str = Field("caption", description="a file of prompts/ that shows one image and asks for its caption")
    retries: NonNegativeInt = Field(2, description="further attempts at an answer that cannot be used")
    sampling: Sampling = Sampling()
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _names_exist(self) -> "CaptionConfig":
        try:
            load_backend(self.backend)
            fitting(self.prompt, {"caption"}, {1}, set())
        except LookupError as error:
            raise ValueError(str(error)) from error
        return self


def deciding_facts(config: CaptionConfig, images: Artifact) -> dict[str, Any]:
    """What the config only names: the model's revision and the digest of the prompt."""
    revision = locate_model(config.backend, config.model).revision
    return {"revision": revision, "prompt": prompts.load(config.prompt).digest}


@stage(version=1, facts=deciding_facts)
def caption(out: Path, config: CaptionConfig, images: Artifact, *, resources: Resources) -> Counts:
    """Write captions.parquet, rejected.parquet and generations.parquet.

    Every image is asked about once. Answers come from the ledger where it has them, also those that a recipe asked
    for; a kill loses at most one chunk. An image without a usable answer is dropped under its reason.
    """
    pool = Pool(images, config.engine)
    prompt = prompts.load(config.prompt)
    generations = SortedTable(out / "unsorted", GENERATIONS, "request_id")
    terms = Terms(locate_model(config.backend, config.model), config.sampling, config.engine, pool)
    captions, rejected = [], []
    with (
        Asker(
            terms, load_backend(config.backend), resources, ledger=home() / "ledger", retries=config.retries,
            images_per_prompt=1, record=generations.add,
        ) as asker,
        progress(len(pool), "captions") as advance,
    ):  # fmt: skip
        rendered = prompt.render()
        for outcome in asker.ask(prompt, (Question(image_id, rendered, (image_id,)) for image_id in pool)):
            if isinstance(outcome.texts, Rejected):
                row = {"row_id": outcome.row_id, "stage": "caption", "reason": outcome.texts.reason}
                rejected.append(row | {"detail": outcome.raw})
            else:
                captions.append({"image_id": outcome.row_id, "caption": outcome.texts["caption"]})
            advance(1)
    write_table(out / "captions.parquet", _ordered(captions, CAPTIONS), CAPTIONS)
    write_table(out / "rejected.parquet", _ordered(rejected, REJECTED), REJECTED)
    requests = generations.write(out / "generations.parquet")
    return Counts(
        read=len(pool),
        kept=len(captions),
        dropped=dict(Counter(row["reason"] for row in rejected)),
        written=len(captions),
        detail=_detail(asker.figures, requests),
    )


def _ordered(rows: list[dict[str, str]], schema: pa.Schema) -> pa.Table:
    """Answers come in any order; rows are ordered by their id."""
    return pa.Table.from_pylist(rows, schema=schema).sort_by(schema.names[0])


def _detail(figures: Figures, requests: int) -> dict[str, JsonValue]:
    plain = asdict(figures) | {"rejections": dict(sorted(figures.rejections.items()))}
    seconds = {name: round(plain[name], 3) for name in ("engine_seconds", "start_seconds")}
    return {"requests": requests, **plain, **seconds}
