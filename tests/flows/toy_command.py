"""A command line around the toy recipe: `python -m tests.flows.toy_command [key=value ...] [--rerun STAGE]`."""

import importlib
from typing import Annotated

import typer

from flows.execute import execute_recipe


def main(
    assignments: Annotated[list[str] | None, typer.Argument()] = None,
    rerun: Annotated[list[str] | None, typer.Option()] = None,
    until: Annotated[str | None, typer.Option()] = None,
) -> None:
    # Imported late, as real recipes are: Prefect reads its settings when it is imported.
    execute_recipe(lambda: importlib.import_module("tests.flows.toy").RECIPE, assignments or [], rerun or [], until)


if __name__ == "__main__":
    typer.run(main)
