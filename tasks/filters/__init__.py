"""Filters: what is looked at in a triplet before it may teach a retriever.

One file per filter: `tasks/filters/<name>.py` defines `Config`, a `Filter` with its settings and its measure.
`tasks.filter.FilterConfig` puts them in order; a test sees to it that no file of this folder is missing there. A filter
sees the triplets' texts, their images and what models say of them.
"""

import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from data.artifact import Artifact
from data.config import Resources, StageConfig
from models.backends import Opener, TextGenerator, load_backend
from tasks.features import Picture, pictures

if TYPE_CHECKING:
    from models.encoders import TrainableEncoder

Row = Mapping[str, Any]
"""A row of `data.schemas.TRIPLETS`."""


class Measured(NamedTuple):
    """What a filter found in one triplet.

    Attributes:
        value: to be compared with the threshold; None where there is nothing to measure.
        found: what the value comes from, for whoever reads of a dropped row; without a value, in one word, why not.
    """

    value: float | None
    found: str = ""


class Lent:
    """An engine that outlives who asks it."""

    def __init__(self, engine: TextGenerator) -> None:
        self.model, self.revision = engine.model, engine.revision
        self.generate = engine.generate

    def close(self) -> None:
        """The lender's business."""


class World:
    """What filters may look at besides the triplets. A context manager: leaving stops the engine that they share.

    Attributes:
        images, tokens: artifacts of `ingest` and `encode`.
        resources: batch size, workers, device.
        record: takes rows of `data.schemas.GENERATIONS`: what a filter asked an MLLM.
    """

    def __init__(
        self,
        images: Artifact,
        tokens: Artifact,
        resources: Resources,
        record: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self.images, self.tokens, self.resources, self.record = images, tokens, resources, record
        self._engine: TextGenerator | None = None
        self._wanted: tuple[object, ...] = ()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def opener(self, backend: str) -> Opener:
        """What starts an engine of this backend, or lends the one that an earlier filter started with like settings."""
        opener = load_backend(backend)
        if self.resources.spread != "here":
            return opener  # it travels to workers, which keep their own engines
        return partial(self._lend, opener)

    def _lend(self, opener: Opener, *wanted: Any) -> TextGenerator:
        if self._engine is None or self._wanted != (opener, *wanted):
            self.__exit__()  # there is room for one
            self._engine, self._wanted = opener(*wanted), (opener, *wanted)
        return Lent(self._engine)

    @cached_property
    def pictures(self) -> dict[str, Picture]:
        """The ingested images by id."""
        return {picture.image_id: picture for picture in pictures(self.images)}

    @cached_property
    def encoder(self) -> "TrainableEncoder":
        """The encoder that `tokens` were made with.

        Raises:
            ValueError: if the checkpoint's files are not those any more.
        """
        from models.encoders import load_encoder

        name, facts = self.tokens.manifest["config"]["checkpoint"], self.tokens.manifest["facts"]
        encoder = load_encoder(name, self.resources.device, facts["dtype"])
        if encoder.digest != facts["weights"]:
            raise ValueError(f"the files of checkpoint {name} are not those that encoded the images; run again")
        encoder.eval()
        return encoder


class Filter(StageConfig):
    """Settings of one filter: `on`, `threshold`, `drop` in its place, and what else decides its values."""

    keeps: ClassVar[Literal["at_most", "at_least"]] = "at_most"
    """Values up to the threshold are kept, or values from the threshold on; the threshold itself always is."""

    on: bool
    threshold: float
    drop: float | None = Field(None, ge=0, lt=1, description="share of what it measures to drop, instead of threshold")

    def settled(self, values: Sequence[float]) -> Self:
        """This filter with a threshold that drops the share `drop` of these values, or less where values are equal."""
        if self.drop is None or not values:
            return self
        ordered = sorted(values, reverse=self.keeps == "at_most")
        gone = floor(round(self.drop * len(ordered), 6))  # 0.29 * 100 is 28.999999999999996
        return self.model_copy(update={"threshold": float(ordered[min(gone, len(ordered) - 1)])})

    def keep(self, value: float | None) -> bool:
        """Whether a triplet of this value stays; one without a value does."""
        if value is None:
            return True
        return value <= self.threshold if self.keeps == "at_most" else value >= self.threshold

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        """Measure triplets, one after the other: as many answers, in the same order."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What else decides the values: digests of what the settings only name."""
        return {}


def names() -> list[str]:
    """The files of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_")
