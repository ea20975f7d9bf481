"""What a recipe is, and how one is found: by the name of its file in this folder."""

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from data.config import StageConfig
from data.suggest import did_you_mean
from flows.status import report_of, scores_of
from tasks.model_names import unknown_models
from tasks.runs import ActiveRun, check_stages, start_run
from tasks.shown import show_run
from tasks.stage import Stage

C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Recipe(Generic[C]):
    """A flow with its config and its stages.

    Attributes:
        name: name of the recipe and of its file in flows/.
        config: type of the config; its defaults are a complete configuration.
        flow: the Prefect flow `(config, rerun, until) -> run id`.
        stages: in the order in which the flow calls them, with the defaults.
        planned: the stages of one config, likewise, where they are not always the same.
        optional: stages that only some configs have.
    """

    name: str
    config: type[C]
    flow: Callable[..., str]
    stages: tuple[Stage[...], ...]
    planned: Callable[[C], tuple[Stage[...], ...]] | None = None
    optional: tuple[Stage[...], ...] = ()

    @property
    def stage_names(self) -> list[str]:
        return [stage.name for stage in self.stages]

    def planned_names(self, config: C) -> list[str]:
        """Names of the stages that the flow calls with this config, in order; some more than once."""
        return self.stage_names if self.planned is None else [stage.name for stage in self.planned(config)]

    @contextmanager
    def run(self, config: C, rerun: Sequence[str], until: str | None) -> Iterator[ActiveRun]:
        """Record the flow's body as a run, and show in Prefect what came of it; `until` leaves it early.

        A stage that is called more than once is the last in its last call. See `tasks.runs.start_run`.
        """
        active: ActiveRun | None = None
        try:
            with start_run(self.name, self.planned_names(config), config, rerun, until) as active:
                yield active
        finally:
            # An interrupted process has to end at once; one that found all in the store has started no server.
            if active is not None and active.record.state != "interrupted" and not active.stored_only:
                show_run(active.record, scores_of(active.record), report_of(active.record))

    def check(self, config: C | None, rerun: Sequence[str], until: str | None) -> list[str]:
        """What is wrong with the stages and the checkpoints named on a command line; `config` is None while it is not
        known."""
        any_config = [*self.stage_names, *(stage.name for stage in self.optional)]
        problems = check_stages(any_config if config is None else self.planned_names(config), rerun, until)
        return problems if config is None else [*problems, *unknown_models(config)]


def changed(config: C, **fields: object) -> C:
    """The config with other values, checked like the first ones."""
    return type(config).model_validate({**config.model_dump(), **fields})


def recipe_names() -> list[str]:
    """Names of the files in this folder that define RECIPE, found without importing them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if re.search(r"^RECIPE\b", file.read_text(encoding="utf-8"), re.MULTILINE)]


def check_recipe(name: str) -> None:
    """Raise a LookupError with a suggestion if there is no recipe of this name."""
    names = recipe_names()
    if name not in names:
        raise LookupError(f"no recipe {name!r};{did_you_mean(name, names)}")


def load_recipe(name: str) -> Recipe[Any]:
    """Import a recipe.

    Raises:
        LookupError: if there is none of this name; it suggests the nearest.
    """
    check_recipe(name)
    recipe = importlib.import_module(f"flows.{name}").RECIPE
    assert isinstance(recipe, Recipe)
    return recipe
