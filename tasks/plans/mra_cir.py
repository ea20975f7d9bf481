"""MRA-CIR (arXiv 2505.19952): both images are captioned alone, then the modification is written from both together."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

import prompts
from data.artifact import Artifact
from data.schemas import PAIRS
from tasks.plans import GenerateConfig, Plan, Row, Step, Styled, fitting, row_id
from tasks.rows import read_rows

_COPIED = ("pair_id", "view", "rank", "score")
_CAPTIONS = ("reference_caption", "target_caption")
# What a prompt is filled with in place of captions that nobody wrote.
NOT_DESCRIBED = "not described"


class MraCirGenerate(GenerateConfig, Styled):
    """How MRA-CIR's triplets are written."""

    recipe: Literal["mra_cir"] = "mra_cir"
    caption_prompt: str | None = Field(
        "caption", description="a file of prompts/, asked once per image; none: the model sees the images alone"
    )
    modification_prompt: str = Field("mra_cir/modification", description="a file of prompts/, asked once per text")

    def prompt_names(self) -> list[str]:
        captions = [self.caption_prompt] if self.caption_prompt is not None else []
        return [*captions, self.modification_prompt, *(f"styles/{style}" for style in self.styles)]

    def prompt_checks(self) -> list[Callable[[], object]]:
        texts = {"reference_caption", "target_caption", "style"}
        images = {0, 2}
        checks: list[Callable[[], object]] = []
        if self.caption_prompt is None:
            images = {2}  # there is nothing else to write from
        else:
            checks.append(partial(fitting, self.caption_prompt, {"caption"}, {1}, set()))
        return [
            *checks,
            lambda: fitting(self.modification_prompt, {"modification"}, images, texts),
            *(partial(prompts.load, f"styles/{style}") for style in self.styles),
        ]

    def plan(self, pairs: Artifact | None, images: Artifact) -> Plan:
        if pairs is None:
            raise ValueError("mra_cir writes about pairs of images; give it the pairs")
        ids = read_rows(pairs.file("pairs.parquet"), PAIRS, ["reference_id", "target_id"])
        found = pa.chunked_array([column for batch in ids for column in batch.columns], pa.string())
        return Plan(
            recipe=self.recipe,
            sources=sum(batch.num_rows for batch in read_rows(pairs.file("pairs.parquet"), PAIRS, ["pair_id"])),
            texts=self.texts_per_pair,
            rows=partial(self._rows, pairs),
            caption_prompt=None if self.caption_prompt is None else prompts.load(self.caption_prompt),
            captioned=found.unique().sort(),
            undescribed=self.caption_prompt is None,
            steps=(Step(prompts.load(self.modification_prompt)),),
        )

    def _rows(self, pairs: Artifact) -> Iterator[Row]:
        phrases = {style: prompts.load(f"styles/{style}").text for style in self.styles}
        styled = "style" in prompts.load(self.modification_prompt).placeholders
        known = {} if self.caption_prompt is not None else dict.fromkeys(_CAPTIONS, NOT_DESCRIBED)
        for batch in read_rows(pairs.file("pairs.parquet"), PAIRS):
            for pair in batch.to_pylist():
                for draw in range(self.texts_per_pair):
                    style = self.style_of(self.seed, pair["pair_id"], draw)
                    columns: dict[str, Any] = {name: pair[name] for name in _COPIED}
                    yield Row(
                        row_id=row_id(pair["pair_id"], draw),
                        source=pair["pair_id"],
                        draw=draw,
                        reference_id=pair["reference_id"],
                        target_id=pair["target_id"],
                        texts={"style": phrases[style], **known},
                        columns=columns | {"style": style if styled else None},
                    )
