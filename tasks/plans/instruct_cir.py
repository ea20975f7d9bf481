"""InstructCIR: from a caption alone a model thinks of a change, and writes the instruction and the caption after it.

No image is shown. The caption as it was becomes the hard negative of the new one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import pyarrow as pa
from pydantic import Field

import prompts
from data.artifact import Artifact
from tasks.plans import Edited, GenerateConfig, Plan, Row, Step, fitting, row_id
from tasks.plans.single import Single, singles, uncaptioned_ids

_NONE = "the image came without a caption; set generate.caption_prompt=caption to have captions written"


class InstructCirGenerate(GenerateConfig, Edited):
    """How InstructCIR's triplets are written."""

    recipe: Literal["instruct_cir"] = "instruct_cir"
    instruction_prompt: str = Field("instruct_cir/instruction", description="a file of prompts/, asked once per text")
    caption_prompt: str | None = Field(
        None, description="a file of prompts/, asked for images that came without a caption; none: those are dropped"
    )

    def prompt_names(self) -> list[str]:
        return [self.instruction_prompt, *([self.caption_prompt] if self.caption_prompt is not None else [])]

    def prompt_checks(self) -> list[Callable[[], object]]:
        answer = {"instruction", "modified_caption"}
        checks: list[Callable[[], object]] = [
            lambda: fitting(self.instruction_prompt, answer, {0, 1}, {"caption", "edit_type"})
        ]
        if (name := self.caption_prompt) is not None:
            checks.append(lambda: fitting(name, {"caption"}, {1}, set()))
        return checks

    def plan(self, pairs: Artifact | None, images: Artifact) -> Plan:
        if pairs is not None:
            raise ValueError("instruct_cir writes about single captions; give it no pairs")
        total, without = uncaptioned_ids(images)
        asked = self.caption_prompt is not None
        return Plan(
            recipe=self.recipe,
            sources=total,
            texts=self.texts_per_pair,
            rows=partial(self._rows, images),
            caption_prompt=prompts.load(self.caption_prompt) if self.caption_prompt is not None else None,
            captioned=without if asked else pa.array([], pa.string()),
            steps=(Step(prompts.load(self.instruction_prompt)),),
            modification="instruction",
            target_text="modified_caption",
            caption_is_negative=True,
        )

    def _rows(self, images: Artifact) -> Iterator[Row]:
        filled = prompts.load(self.instruction_prompt).placeholders
        for one in singles(images, self.recipe):
            for draw in range(self.texts_per_pair):
                yield self._row(one, draw, filled)

    def _row(self, one: Single, draw: int, filled: frozenset[str]) -> Row:
        kind = self.edit_type_of(self.seed, one.source, draw)
        own = {"reference_caption": one.caption} if one.caption is not None else {}
        lacking = one.caption is None and self.caption_prompt is None
        return Row(
            row_id=row_id(one.source, draw),
            source=one.source,
            draw=draw,
            reference_id=one.image_id,
            target_id=None,
            texts={"edit_type": kind, **own},
            columns={"edit_type": kind if "edit_type" in filled else None},
            fault=("no_caption", _NONE) if lacking else None,
        )
