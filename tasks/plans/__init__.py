"""Plans: what a recipe asks for every row that comes in, and which texts of the answers become a triplet.

One file per recipe; each has a configuration whose `plan` lays out the work. Asking, retrying, counting and writing
are the same for all and live in `tasks.writing` and `tasks.generate`.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

import prompts
from data.artifact import Artifact
from data.config import StageConfig
from data.keys import digest
from models.backends import Engine, Sampling, load_backend
from prompts import Prompt

EDIT_TYPES = (
    *("colour", "shape", "size", "texture", "position", "background", "addition", "removal", "count", "negation"),
)
"""Kinds of change that can be asked for; the small MLLM was taught exactly these."""
ANY = "any"
"""What stands for a kind of change where the model is to choose it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One triplet to be written.

    Attributes:
        row_id: of the triplet.
        source: the row that came in, which it is counted for: a pair or an image.
        draw: 0 for the first text of its source, 1 for the next, ...
        reference_id, target_id: images; no target where a text stands for it.
        texts: what is known from the start: `style`, `edit_type`, `caption`.
        columns: of the triplet, as far as they are known.
        fault: reason and detail, where nothing can be asked about it.
    """

    row_id: str
    source: str
    draw: int
    reference_id: str
    target_id: str | None
    texts: Mapping[str, str]
    columns: Mapping[str, Any]
    fault: tuple[str, str] | None = None


@dataclass(frozen=True)
class Step:
    """A prompt that is asked once for every row. It shows the reference, then the target, as far as it shows images.

    Attributes:
        prompt: its placeholders are filled from the row's texts and earlier answers.
        prefix: put before the reason of a row that is lost in this step.
        temperature: the least that its answers are drawn with.
    """

    prompt: Prompt
    prefix: str = ""
    temperature: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The work of one recipe on its inputs.

    Attributes:
        recipe: its name, as in the triplets.
        sources: number of rows that come in.
        texts: triplets wanted of each.
        rows: gives them anew at every call, ordered by `row_id`, those of one source next to each other.
        caption_prompt: asked once for each image of `captioned`.
        captioned: ids, ascending; their captions become the texts `reference_caption` and `target_caption`.
        steps: in order; each may use the answers of those before it.
        modification, target_text: fields of the answers that become these columns of a triplet.
        caption_is_negative: whether the reference's caption becomes a hard negative of the target text.
        undescribed: whether what stands in the prompt for captions is none.
    """

    recipe: str
    sources: int
    texts: int
    rows: Callable[[], Iterator[Row]]
    caption_prompt: Prompt | None
    captioned: pa.Array
    steps: tuple[Step, ...]
    modification: str = "modification"
    target_text: str | None = None
    caption_is_negative: bool = False
    undescribed: bool = False

    @property
    def prompts(self) -> list[Prompt]:
        first = [self.caption_prompt] if self.caption_prompt is not None and len(self.captioned) else []
        return [*first, *(step.prompt for step in self.steps)]


class GenerateConfig(StageConfig):
    """Who writes, what it is asked, and how its answers are drawn: the settings that all recipes share."""

    recipe: str
    backend: str = Field("vllm", description="a file of models/backends")
    model: str = Field("tiny_llava", description="a folder of models/checkpoints, any folder, or a Hugging Face id")
    texts_per_pair: Annotated[int, Field(ge=1, le=10, description="different texts for each pair or image")] = 1
    seed: int = Field(0, description="of the draws of styles and kinds of change; sampling.seed is that of the answers")
    retries: NonNegativeInt = Field(2, description="further attempts at an answer that cannot be used")
    sampling: Sampling = Sampling()
    engine: Engine = Engine()

    @abstractmethod
    def plan(self, pairs: Artifact | None, images: Artifact) -> Plan:
        """Lay out the work on some inputs.

        Raises:
            ValueError: if the recipe needs another input, or one does not fit the other.
        """

    @abstractmethod
    def prompt_names(self) -> list[str]:
        """All files of prompts/ that decide what is asked, styles as "styles/<name>"."""

    @abstractmethod
    def prompt_checks(self) -> list[Callable[[], object]]:
        """Calls that raise a LookupError or a ValueError where a prompt is missing or does not fit."""

    @model_validator(mode="after")
    def _names_exist(self) -> "GenerateConfig":
        faults = []
        for check in (lambda: load_backend(self.backend), *self.prompt_checks()):
            try:
                check()
            except (LookupError, ValueError) as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Styled(StageConfig):
    """The styles that a modification may have."""

    styles: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("short", "sentence"), description="files of prompts/styles; each text draws one"
    )
    style_weights: tuple[PositiveFloat, ...] = Field((), description="how often each style is drawn; none: equally")

    @model_validator(mode="after")
    def _one_weight_each(self) -> "Styled":
        if self.style_weights and len(self.style_weights) != len(self.styles):
            raise ValueError(
                f"{len(self.style_weights)} style_weights for {len(self.styles)} styles; give one for each, or none"
            )
        return self

    def style_of(self, seed: int, source: str, draw: int) -> str:
        """The style of a text: drawn by seed and id, so that other rows do not change it."""
        ends = list(accumulate(self.style_weights or [1.0] * len(self.styles)))
        place = _uniform("style", seed, source, draw) * ends[-1]
        return next((style for style, end in zip(self.styles, ends, strict=True) if place < end), self.styles[-1])


class Edited(StageConfig):
    """The kinds of change that may be asked for."""

    edits: Literal["balanced", "natural"] = Field(
        "balanced", description="balanced: each text is asked for a kind, all equally often; natural: the model chooses"
    )
    edit_types: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        EDIT_TYPES, description="kinds of change that balanced draws from, in words that the model understands"
    )

    @model_validator(mode="after")
    def _each_once(self) -> "Edited":
        if len(set(self.edit_types)) < len(self.edit_types) or not all(kind.strip() for kind in self.edit_types):
            raise ValueError(f"edit_types are different words, got {', '.join(map(repr, self.edit_types))}")
        return self

    def edit_type_of(self, seed: int, source: str, draw: int) -> str:
        """The kind of change of a text; the texts of one source have different kinds as long as there are enough."""
        if self.edits == "natural":
            return ANY
        ordered = sorted(self.edit_types, key=lambda kind: digest(["edit", seed, source, kind]))
        return ordered[draw % len(ordered)]


def fitting(name: str, answer: set[str], images: set[int], placeholders: set[str]) -> Prompt:
    """A prompt that a plan can fill and read.

    Raises:
        LookupError: if there is none of this name.
        ValueError: if it shows, fills or asks for something else.
    """
    prompt = prompts.load(name)
    if prompt.images not in images or not answer <= set(prompt.answer) or not prompt.placeholders <= placeholders:
        raise ValueError(
            f"prompt {name!r} shows {prompt.images} images, fills {sorted(prompt.placeholders)} and asks for "
            f"{list(prompt.answer)}; want {' or '.join(map(str, sorted(images)))} images, at most "
            f"{sorted(placeholders)}, and {', '.join(sorted(answer))}"
        )
    return prompt


def row_id(source: str, draw: int) -> str:
    """The id of a source's first triplet is the source's own; further ones are numbered."""
    return f"{source}-{draw}" if draw else source


def _uniform(*parts: str | int) -> float:
    """A number in [0, 1) that these parts alone decide."""
    return int(digest(list(parts))[:13], 16) / 16**13
