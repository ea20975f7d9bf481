"""Generate: triplets, written by a model as the recipe's plan has it; every row accounted for, nothing asked twice."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import JsonValue

import prompts
from data.artifact import Artifact, Counts
from data.config import Resources
from data.schemas import GENERATIONS, REJECTED, TRIPLETS
from models.backends import check_resources, load_backend, locate_model
from tasks.asking import Asker, Figures
from tasks.outcomes import Outcomes
from tasks.plans import GenerateConfig, Plan
from tasks.pool import Pool
from tasks.requests import Terms
from tasks.rows import row_writer
from tasks.spill import SortedTable
from tasks.stage import stage
from tasks.store import home
from tasks.writing import Spent, Texts, resolved, write_texts


def check_generator(config: GenerateConfig, resources: Resources) -> None:
    """Raise a ValueError if the backend cannot work with these resources; for recipes, before their first stage."""
    check_resources(config.backend, resources)


def deciding_facts(config: GenerateConfig, images: Artifact, pairs: Artifact | None = None) -> dict[str, Any]:
    """What the config only names: the model's revision and the digests of the texts."""
    return {
        "revision": locate_model(config.backend, config.model).revision,
        "prompts": {name: prompts.load(name).digest for name in config.prompt_names()},
    }


@stage(version=3, facts=deciding_facts)
def generate(
    out: Path, config: GenerateConfig, pairs: Artifact | None, images: Artifact, *, resources: Resources
) -> Counts:
    """Write triplets.parquet and rejected.parquet, ordered by row, and generations.parquet, ordered by request.

    Rows that come in are pairs, or images where the recipe takes no pairs. One without any usable text is dropped
    under the reason of its first; where several texts are wanted of each, those that failed are in rejected.parquet
    too, and `detail` counts them. Reasons begin with "caption_" or "target_text_" if that text was at fault.

    Answers come from the ledger where it has them, and a kill loses at most one chunk. generations.parquet has every
    request that was used or rejected.

    Args:
        out: the folder to write to.
        config: of one of the recipes in tasks/plans.
        pairs: None for the recipes that write about single images.
        images: the ingested images.
        resources: size of a chunk, threads, and what the engine may take.
    """
    plan = config.plan(pairs, images)
    generations = SortedTable(out / "unsorted", GENERATIONS, "request_id")
    with Outcomes(out / "outcomes.sqlite") as outcomes:
        terms = terms_of(config, images)
        if pairs is not None:
            _check(terms, plan, images)
        with open_asker(config, plan, terms, resources, generations) as asker:
            spent = write_texts(plan, asker, outcomes)
        tally = _write(out, plan, terms, outcomes)
        requests = generations.write(out / "generations.parquet", partial(_mark_withdrawn, outcomes))
    return Counts(
        read=plan.sources,
        kept=plan.sources - tally.dropped.total(),
        dropped=dict(tally.dropped),
        written=tally.written,
        detail=_detail(plan, asker.figures, tally, spent, requests) | {"devices": devices_of(config, resources)},
    )


def _check(terms: Terms, plan: Plan, images: Artifact) -> None:
    """Raise a ValueError if the pairs speak of images that are not there."""
    missing = [value.as_py() for value in plan.captioned if value.as_py() not in terms.pictures]
    if missing:
        raise ValueError(f"{len(missing)} images of the pairs are not in {images.path}, for example {missing[0]!r}")


def terms_of(config: GenerateConfig, images: Artifact) -> Terms:
    """Whom the configuration asks about these images, and how."""
    return Terms(
        locate_model(config.backend, config.model), config.sampling, config.engine, Pool(images, config.engine)
    )


def open_asker(
    config: GenerateConfig, plan: Plan, terms: Terms, resources: Resources, generations: SortedTable
) -> Asker:
    """What asks for the plan's texts: with the ledger, and an engine that starts when something is not in it."""
    return Asker(
        terms,
        load_backend(config.backend),
        resources,
        ledger=home() / "ledger",
        retries=config.retries,
        images_per_prompt=max(prompt.images for prompt in plan.prompts),
        record=generations.add,
    )


def devices_of(config: GenerateConfig, resources: Resources) -> int:
    """GPUs that answer at the same time; of endpoints, each is taken for one."""
    if resources.endpoints and config.backend == "openai":
        return len(resources.endpoints)
    return resources.tensor_parallel * resources.data_parallel


@dataclass
class _Tally:
    """What came of it: rows that came in by the reason they were dropped for, texts by that of theirs."""

    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    written: int = 0
    drawn: dict[str, Counter[str]] = field(default_factory=lambda: {"style": Counter(), "edit_type": Counter()})


def _write(out: Path, plan: Plan, terms: Terms, outcomes: Outcomes) -> _Tally:
    tally = _Tally()
    with (
        row_writer(out / "triplets.parquet", TRIPLETS) as triplets,
        row_writer(out / "rejected.parquet", REJECTED) as rejected,
    ):
        for _, texts in groupby(resolved(plan, outcomes), key=lambda one: one.row.source):
            faults = []
            written = triplets.rows
            for one in texts:
                if one.fault is None:
                    triplet = _triplet(plan, terms, one)
                    triplets.add(triplet)
                    for name, counts in tally.drawn.items():
                        counts.update([triplet[name]] if triplet[name] is not None else [])
                    continue
                reason, raw = one.fault
                faults.append(reason)
                rejected.add({"row_id": one.row.row_id, "stage": "generate", "reason": reason, "detail": raw})
            tally.rejected.update(faults)
            tally.dropped.update(faults[:1] if triplets.rows == written else [])
    tally.written = triplets.rows
    return tally


def _triplet(plan: Plan, terms: Terms, one: Texts) -> dict[str, Any]:
    """A row of TRIPLETS."""
    row, texts = one.row, one.texts
    caption = plan.caption_prompt.digest if plan.caption_prompt is not None else ""
    captions = {} if plan.undescribed else texts
    return {
        **dict.fromkeys(TRIPLETS.names),
        **row.columns,
        "triplet_id": row.row_id,
        "reference_id": row.reference_id,
        "target_id": row.target_id,
        "modification": texts[plan.modification],
        "target_text": texts[plan.target_text] if plan.target_text is not None else None,
        "reference_caption": captions.get("reference_caption"),
        "target_caption": captions.get("target_caption"),
        "negative_texts": [texts["caption"]] if plan.caption_is_negative else None,
        "recipe": plan.recipe,
        "provenance": {
            "model": terms.model,
            "revision": terms.located.revision,
            "prompt_digest": plan.steps[0].prompt.digest,
            "caption_prompt_digest": caption,
            "request_ids": one.request_ids,
        },
    }


def _mark_withdrawn(outcomes: Outcomes, generations: pa.Table) -> pa.Table:
    """Generations in which texts that were taken back have the reason for that."""
    withdrawn = outcomes.withdrawn(generations["request_id"].to_pylist())
    if not withdrawn:
        return generations
    place = generations.schema.get_field_index("rejected")
    pairs = zip(generations["request_id"].to_pylist(), generations["rejected"].to_pylist(), strict=True)
    reasons = pa.array([withdrawn.get(request_id, reason) for request_id, reason in pairs], pa.string())
    return generations.set_column(place, generations.schema.field(place), reasons)


def _detail(plan: Plan, figures: Figures, tally: _Tally, spent: list[Spent], requests: int) -> dict[str, JsonValue]:
    """Figures for the report: of all requests, of the texts, and of each prompt."""
    plain = asdict(figures) | {"rejections": dict(sorted(figures.rejections.items()))}
    texts: dict[str, JsonValue] = {"wanted": plan.sources * plan.texts, "written": tally.written}
    if tally.rejected:
        texts["rejected"] = dict(sorted(tally.rejected.items()))
    return {
        "requests": requests,
        **{name: round(value, 3) if isinstance(value, float) else value for name, value in plain.items()},
        "texts": texts,
        **{f"{name}s": dict(sorted(counts.items())) for name, counts in tally.drawn.items() if counts},
        "prompts": {one.prompt: _plain(one) for one in spent},
    }


def _plain(one: Spent) -> dict[str, JsonValue]:
    plain = asdict(one)
    del plain["prompt"]
    return plain | {"seconds": round(one.seconds, 3)}
