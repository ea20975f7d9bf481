"""Generate: triplets from pairs by MRA-CIR, captions of both images first, then the modification between them.

MRA-CIR shows the model both images together with the captions that it wrote of each alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field, JsonValue, NonNegativeInt, model_validator

import prompts
from data.artifact import Artifact, Counts, write_atomically, write_table
from data.config import Resources, StageConfig
from data.keys import digest
from data.progress import progress
from data.schemas import GENERATIONS, IMAGES, PAIRS, REJECTED, TRIPLETS
from models.backends import Engine, Sampling, check_resources, load_backend, locate_model
from prompts import Prompt
from tasks.asking import Asker, Figures
from tasks.ingest import open_image
from tasks.replies import Rejected
from tasks.requests import Outcome, Picture, Question, Terms
from tasks.spill import SortedTable
from tasks.stage import stage
from tasks.store import home

RECIPE = "mra_cir"
_ROWS = 4096  # triplets built and written at a time


class GenerateConfig(StageConfig):
    """Who writes, what it is asked, and how its answers are drawn."""

    backend: str = Field("vllm", description="a file of models/backends")
    model: str = Field("tiny_llava", description="a folder of models/checkpoints, any folder, or a Hugging Face id")
    caption_prompt: str = Field("caption", description="a file of prompts/, asked once per image")
    modification_prompt: str = Field("mra_cir/modification", description="a file of prompts/, asked once per pair")
    styles: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("short", "sentence"), description="files of prompts/styles; each pair draws one"
    )
    seed: int = Field(0, description="of the draw of styles; that of the answers is sampling.seed")
    retries: NonNegativeInt = Field(2, description="further attempts at an answer that cannot be used")
    sampling: Sampling = Sampling()
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _names_exist(self) -> "GenerateConfig":
        texts = {"reference_caption", "target_caption", "style"}
        checks: list[Callable[[], object]] = [
            lambda: load_backend(self.backend),
            lambda: _fitting(self.caption_prompt, "caption", {1}, set()),
            lambda: _fitting(self.modification_prompt, "modification", {0, 2}, texts),
            *(partial(prompts.load, f"styles/{style}") for style in self.styles),
        ]
        faults = []
        for check in checks:
            try:
                check()
            except (LookupError, ValueError) as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))
        return self


def check_generator(config: GenerateConfig, resources: Resources) -> None:
    """Raise a ValueError if the backend cannot work with these resources; for recipes, before their first stage."""
    check_resources(config.backend, resources)


def _fitting(name: str, answer: str, images: set[int], placeholders: set[str]) -> Prompt:
    """A prompt that this stage can fill and read."""
    prompt = prompts.load(name)
    if prompt.images not in images or answer not in prompt.answer or not prompt.placeholders <= placeholders:
        raise ValueError(
            f"prompt {name!r} shows {prompt.images} images, fills {sorted(prompt.placeholders)} and asks for "
            f"{list(prompt.answer)}; want {sorted(images)} images, at most {sorted(placeholders)}, and {answer!r}"
        )
    return prompt


def deciding_facts(config: GenerateConfig, pairs: Artifact, images: Artifact) -> dict[str, Any]:
    """What the config only names: the model's revision and the digests of the texts."""
    names = [config.caption_prompt, config.modification_prompt, *(f"styles/{style}" for style in config.styles)]
    return {
        "revision": locate_model(config.backend, config.model).revision,
        "prompts": {name: prompts.load(name).digest for name in names},
    }


@stage(version=1, facts=deciding_facts)
def generate(out: Path, config: GenerateConfig, pairs: Artifact, images: Artifact, *, resources: Resources) -> Counts:
    """Write triplets.parquet, ordered as the pairs are, generations.parquet and rejected.parquet.

    Every image that occurs in a pair is captioned once; a pair whose captions are there is asked for a modification.
    Answers come from the ledger where it has them, and a kill loses at most one chunk. A pair without a usable answer
    is dropped under its reason, with "caption_" before it if the caption was at fault; rejected.parquet has the raw
    answer, and generations.parquet every request that was used or rejected.
    """
    table = pairs.read(PAIRS, "pairs.parquet")
    caption_prompt = prompts.load(config.caption_prompt)
    modification_prompt = prompts.load(config.modification_prompt)
    pictures = _pictures(images, table, config.engine)
    terms = Terms(locate_model(config.backend, config.model), config.sampling, config.engine, pictures)
    generations = SortedTable(out / "unsorted", GENERATIONS, "request_id")
    with Asker(
        terms,
        load_backend(config.backend),
        resources,
        ledger=home() / "ledger",
        retries=config.retries,
        images_per_prompt=2,
        record=generations.add,
    ) as asker:
        to_caption = (Question(image_id, caption_prompt.render(), (image_id,)) for image_id in sorted(pictures))
        captions = _answers(asker, caption_prompt, to_caption, len(pictures), "captions")
        ready = sum(_caption_fault(pair, captions) is None for pair in _rows(table))
        to_modify = _modification_questions(config, table, captions)
        modifications = _answers(asker, modification_prompt, to_modify, ready, "modifications")
    _write_triplets(out / "triplets.parquet", _triplets(config, terms, table, captions, modifications))
    rejected = pa.Table.from_pylist(list(_rejected(table, captions, modifications)), schema=REJECTED)
    write_table(out / "rejected.parquet", rejected, REJECTED)
    requests = generations.write(out / "generations.parquet")
    numbers = {"captions": len(captions), "modifications": len(modifications), "requests": requests}
    kept = table.num_rows - rejected.num_rows
    return Counts(
        read=table.num_rows,
        kept=kept,
        dropped=dict(Counter(rejected["reason"].to_pylist())),
        written=kept,
        detail=_detail(asker.figures, numbers),
    )


def _pictures(images: Artifact, pairs: pa.Table, engine: Engine) -> dict[str, Picture]:
    """The images that occur in a pair."""
    wanted = pa.chunked_array([*pairs["reference_id"].chunks, *pairs["target_id"].chunks], pa.string()).unique()
    table = images.read(IMAGES, "images.parquet")
    table = table.filter(pc.is_in(table["image_id"], value_set=wanted))
    if table.num_rows != len(wanted):
        missing = sorted(set(wanted.to_pylist()) - set(table["image_id"].to_pylist()))
        raise ValueError(f"{len(missing)} images of the pairs are not in {images.path}, for example {missing[0]!r}")
    side = engine.image_side
    columns = ("image_id", "uri", "width", "height", "sha256")
    return {
        image_id: Picture(
            # Another limit on the size does not make another image of one that is below both.
            digest=sha256 if max(width, height) <= side else f"{sha256}@{side}",
            load=partial(_seen, images, uri, side),
        )
        for image_id, uri, width, height, sha256 in zip(*(table[name].to_pylist() for name in columns), strict=True)
    }


def _seen(images: Artifact, uri: str, side: int) -> Image.Image:
    image = open_image(images, uri)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return image


def _answers(asker: Asker, prompt: Prompt, questions: Iterable[Question], total: int, unit: str) -> dict[str, Outcome]:
    outcomes = {}
    with progress(total, unit) as advance:
        for outcome in asker.ask(prompt, questions):
            outcomes[outcome.row_id] = outcome
            advance(1)
    return outcomes


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_ROWS):
        yield from batch.to_pylist()


def _caption_fault(pair: Mapping[str, Any], captions: Mapping[str, Outcome]) -> tuple[str, str] | None:
    """Reason and raw answer of the first caption that failed, if one did."""
    for image_id in (pair["reference_id"], pair["target_id"]):
        outcome = captions[image_id]
        if isinstance(outcome.texts, Rejected):
            return f"caption_{outcome.texts.reason}", outcome.raw
    return None


def _text(outcome: Outcome, field: str) -> str:
    """A text of an outcome that is known to be none of the rejected."""
    assert not isinstance(outcome.texts, Rejected)
    return outcome.texts[field]


def style_of(config: GenerateConfig, pair_id: str) -> str:
    """The style of a pair: drawn by seed and id, so that other pairs do not change it."""
    return config.styles[int(digest([config.seed, pair_id])[:12], 16) % len(config.styles)]


def _modification_questions(
    config: GenerateConfig, pairs: pa.Table, captions: Mapping[str, Outcome]
) -> Iterator[Question]:
    """One for each pair whose images both have a caption."""
    prompt = prompts.load(config.modification_prompt)
    styles = {style: prompts.load(f"styles/{style}").text for style in config.styles}
    for pair in _rows(pairs):
        if _caption_fault(pair, captions) is not None:
            continue
        reference, target = pair["reference_id"], pair["target_id"]
        fields = {
            "reference_caption": _text(captions[reference], "caption"),
            "target_caption": _text(captions[target], "caption"),
            "style": styles[style_of(config, pair["pair_id"])],
        }
        rendered = prompt.render(**{name: fields[name] for name in prompt.placeholders})
        yield Question(pair["pair_id"], rendered, (reference, target) if prompt.images else ())


def _triplets(
    config: GenerateConfig,
    terms: Terms,
    pairs: pa.Table,
    captions: Mapping[str, Outcome],
    modifications: Mapping[str, Outcome],
) -> Iterator[dict[str, Any]]:
    """One row of TRIPLETS for each pair with a modification; the triplet has its pair's id."""
    caption_prompt, prompt = prompts.load(config.caption_prompt), prompts.load(config.modification_prompt)
    for pair in _rows(pairs):
        outcome = modifications.get(pair["pair_id"])
        if outcome is None or isinstance(outcome.texts, Rejected):
            continue
        reference, target = captions[pair["reference_id"]], captions[pair["target_id"]]
        yield {
            "triplet_id": pair["pair_id"],
            **{name: pair[name] for name in ("pair_id", "view", "reference_id", "target_id", "rank", "score")},
            "modification": _text(outcome, "modification"),
            "style": style_of(config, pair["pair_id"]) if "style" in prompt.placeholders else None,
            "reference_caption": _text(reference, "caption"),
            "target_caption": _text(target, "caption"),
            "recipe": RECIPE,
            "provenance": {
                "model": terms.model,
                "revision": terms.located.revision,
                "prompt_digest": prompt.digest,
                "caption_prompt_digest": caption_prompt.digest,
                "request_ids": [reference.request_id, target.request_id, outcome.request_id],
            },
        }


def _write_triplets(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    def fill(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, TRIPLETS, compression="zstd") as file:
            while some := list(islice(rows, _ROWS)):
                file.write_table(pa.Table.from_pylist(some, schema=TRIPLETS))

    write_atomically(path, fill)


def _rejected(
    pairs: pa.Table, captions: Mapping[str, Outcome], modifications: Mapping[str, Outcome]
) -> Iterator[dict[str, str]]:
    """One row of REJECTED for each pair without a triplet."""
    for pair in _rows(pairs):
        fault = _caption_fault(pair, captions)
        if fault is None:
            outcome = modifications[pair["pair_id"]]
            fault = (outcome.texts.reason, outcome.raw) if isinstance(outcome.texts, Rejected) else None
        if fault is not None:
            yield {"row_id": pair["pair_id"], "stage": "generate", "reason": fault[0], "detail": fault[1]}


def _detail(figures: Figures, numbers: Mapping[str, int]) -> dict[str, JsonValue]:
    plain = asdict(figures) | {"rejections": dict(sorted(figures.rejections.items()))}
    seconds = {name: round(plain[name], 3) for name in ("engine_seconds", "start_seconds")}
    return {**numbers, **plain, **seconds}
