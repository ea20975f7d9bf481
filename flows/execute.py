"""Run a recipe from the command line: everything checked first, one clear message when it goes wrong."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import typer

from data.config import StageConfig
from flows.overrides import ConfigError, configure, field_values
from flows.recipe import Recipe, check_recipe, load_recipe
from flows.server import ServerError, local_server
from flows.status import show
from tasks.runs import NotStored, RunError, from_store, load_run, recorded_runs, started_here

USAGE, FAILED, INTERRUPTED = 2, 1, 130  # exit codes


def execute(name: str, assignments: Sequence[str], rerun: Sequence[str], until: str | None) -> None:
    """Run the recipe `name` and print what came of it; see `execute_recipe`."""

    def load() -> Recipe[Any]:
        return load_recipe(name)

    try:
        check_recipe(name)
    except LookupError as error:
        typer.echo(f"error: {error.args[0]}", err=True)
        raise typer.Exit(USAGE) from None
    execute_recipe(load, assignments, rerun, until)


def execute_recipe(
    load: Callable[[], Recipe[Any]], assignments: Sequence[str], rerun: Sequence[str], until: str | None
) -> None:
    """Run a recipe and print what came of it.

    Args:
        load: imports the recipe; called while the server starts, if it has to. After a run that was completed the store
            is tried first.
        assignments, rerun, until: as on the command line.

    Raises:
        typer.Exit: 2 for a mistake in the arguments, before any work; 1 if a stage fails or there is no server for it;
            130 if it was stopped.
    """
    try:
        with _terminable(), local_server() as server:
            hopeful = server.own and not rerun and _last_run_completed()
            if not hopeful:
                server.start()
            recipe = load()
            config = checked(recipe, assignments, rerun, until)
            run = _stored_run(recipe, config, until) if hopeful else None
            if run is None:
                server.wait()
                run = _quietly(recipe, config, rerun, until)
        show(load_run(run))
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(USAGE) from None
    except ServerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(FAILED) from None
    except RunError as error:
        show(error.record)
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        stage = load_run(started_here()[-1]).stage_in_hand() if started_here() else None
        typer.echo(
            f"interrupted{f' in stage {stage!r}' if stage else ''}; run the same command again: it continues"
            " from the last finished part",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None


def checked(recipe: Recipe[Any], assignments: Sequence[str], rerun: Sequence[str], until: str | None) -> StageConfig:
    """The config, if nothing at all is wrong with the arguments.

    Raises:
        ConfigError: with all problems.
    """
    try:
        config: StageConfig = configure(recipe.config, assignments)
    except ConfigError as error:
        raise ConfigError([*error.problems, *recipe.check(None, rerun, until)]) from None
    problems = recipe.check(config, rerun, until)
    if problems:
        raise ConfigError(problems)
    return config


def list_fields(name: str) -> None:
    """Print every field of a recipe with its default, ready to be pasted behind `run`."""
    try:
        recipe = load_recipe(name)
    except LookupError as error:
        typer.echo(f"error: {error.args[0]}", err=True)
        raise typer.Exit(USAGE) from None
    for line in field_values(recipe.config()):
        typer.echo(line)


def _last_run_completed() -> bool:
    runs = recorded_runs()
    try:
        return bool(runs) and load_run(runs[-1]).state == "completed"
    except LookupError:  # its record is damaged, which is no reason not to run
        return False


def _stored_run(recipe: Recipe[Any], config: StageConfig, until: str | None) -> str | None:
    """The run, if the store has all of it: without Prefect, whose server takes longer to start than that. Else None."""
    body: Callable[..., str] = recipe.flow.fn  # type: ignore[attr-defined]
    with suppress(NotStored), from_store():
        return body(config=config, until=until)
    return None


def _quietly(recipe: Recipe[Any], config: StageConfig, rerun: Sequence[str], until: str | None) -> str:
    import httpx
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # The heartbeat's thread would hold up the end of every flow by a second; the run's lock tells who is alive.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        try:
            return recipe.flow(config=config, rerun=list(rerun), until=until)
        except httpx.TransportError as error:  # Prefect's own: an error of a stage's is in a RunError
            raise ServerError(
                f"Prefect's server was lost during the run ({str(error) or type(error).__name__}). What was finished is"
                " in the store: run the same command again"
            ) from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does, so that the stage in hand is recorded."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
