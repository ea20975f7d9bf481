"""MVFT-JI (arXiv 2505.19707): no target image; the model makes up a change of one image and says what comes of it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

import prompts
from data.artifact import Artifact
from tasks.plans import Edited, GenerateConfig, Plan, Row, Step, Styled, fitting, row_id
from tasks.plans.single import Single, image_ids, singles


class MvftJiGenerate(GenerateConfig, Styled, Edited):
    """How MVFT-JI's triplets are written: a modification, the text of its target, and a caption."""

    recipe: Literal["mvft_ji"] = "mvft_ji"
    texts_per_pair: Annotated[int, Field(ge=1, le=10, description="different texts for each image")] = 2
    caption_prompt: str = Field("caption", description="a file of prompts/, asked once per image")
    modification_prompt: str = Field("mvft_ji/modification", description="a file of prompts/, asked once per text")
    # The most likely changes are few: a colour, a shape or a place is then hardly ever another (docs/studies.md).
    modification_temperature: Annotated[
        float, Field(ge=0, le=2, description="least temperature that modifications are drawn with")
    ] = 1.0
    target_text_prompt: str = Field("mvft_ji/target_text", description="a file of prompts/, asked once per text")

    def prompt_names(self) -> list[str]:
        own = [self.caption_prompt, self.modification_prompt, self.target_text_prompt]
        return [*own, *(f"styles/{style}" for style in self.styles)]

    def prompt_checks(self) -> list[Callable[[], object]]:
        return [
            lambda: fitting(self.caption_prompt, {"caption"}, {1}, set()),
            lambda: fitting(self.modification_prompt, {"modification"}, {1}, {"style", "edit_type"}),
            lambda: fitting(self.target_text_prompt, {"target_text"}, {1}, {"modification"}),
            *(partial(prompts.load, f"styles/{style}") for style in self.styles),
        ]

    def plan(self, pairs: Artifact | None, images: Artifact) -> Plan:
        if pairs is not None:
            raise ValueError("mvft_ji writes about single images; give it no pairs")
        ids = image_ids(images)
        return Plan(
            recipe=self.recipe,
            sources=len(ids),
            texts=self.texts_per_pair,
            rows=partial(self._rows, images),
            caption_prompt=prompts.load(self.caption_prompt),
            captioned=ids,
            steps=(
                Step(prompts.load(self.modification_prompt), temperature=self.modification_temperature),
                Step(prompts.load(self.target_text_prompt), prefix="target_text_"),
            ),
            target_text="target_text",
        )

    def _rows(self, images: Artifact) -> Iterator[Row]:
        phrases = {style: prompts.load(f"styles/{style}").text for style in self.styles}
        filled = prompts.load(self.modification_prompt).placeholders
        for one in singles(images, self.recipe):
            for draw in range(self.texts_per_pair):
                yield self._row(one, draw, phrases, filled)

    def _row(self, one: Single, draw: int, phrases: dict[str, str], filled: frozenset[str]) -> Row:
        style = self.style_of(self.seed, one.source, draw)
        kind = self.edit_type_of(self.seed, one.source, draw)
        return Row(
            row_id=row_id(one.source, draw),
            source=one.source,
            draw=draw,
            reference_id=one.image_id,
            target_id=None,
            texts={"style": phrases[style], "edit_type": kind},
            columns={
                "style": style if "style" in filled else None,
                "edit_type": kind if "edit_type" in filled else None,
            },
        )
