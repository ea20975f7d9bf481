"""`run --estimate`: what the texts of a recipe will come to, from a sample that is asked for real."""

from collections.abc import Sequence

import typer
from rich import box
from rich.table import Table

from flows.execute import FAILED, USAGE, execute
from flows.recipe import load_recipe
from flows.tables import console
from tasks.estimate import Estimate, Expected, estimate
from tasks.runs import load_run, started_here, stop_before

STAGE = "generate"


def execute_estimate(name: str, assignments: Sequence[str], rerun: Sequence[str], rows: int) -> None:
    """Run the recipe as far as `generate`, try a sample of its rows, and print what all will come to.

    Raises:
        typer.Exit: 2 for a mistake in the arguments, before any work; 1 if something fails.
    """
    try:
        stages = load_recipe(name).stage_names
    except LookupError as error:
        typer.echo(f"error: {error.args[0]}", err=True)
        raise typer.Exit(USAGE) from None
    if STAGE not in stages:
        typer.echo(f"error: recipe {name!r} has no stage {STAGE!r} to estimate", err=True)
        raise typer.Exit(USAGE)
    with stop_before(STAGE) as generate:
        execute(name, assignments, rerun, None)
    assert generate.arguments is not None
    config, pairs, images, resources = (generate.arguments[one] for one in ("config", "pairs", "images", "resources"))
    typer.echo(f"asking for a sample of {rows:,} rows; the run will find the answers in the ledger")
    try:
        found = estimate(config, pairs, images, resources, rows)
    except (LookupError, OSError, RuntimeError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(FAILED) from None
    settings = load_run(started_here()[-1]).config
    asking = [name for name, one in settings.get("filter", {}).items() if one["on"] and "backend" in one]
    show(found, settings["report"]["gpu_hour_price"], "pairs" if pairs is not None else "images", asking)


def show(found: Estimate, price: float | None, unit: str, asking: Sequence[str]) -> None:
    """Print an estimate, and how it was made."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"estimate from {found.sampled:,} of {found.sources:,} {unit}",
        title_justify="left",
    )
    table.add_column("prompt", no_wrap=True)
    for name in ("requests", "to ask", "tokens in", "tokens out", "hours"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in (*found.prompts, found.total):
        table.add_row(*_cells(one), end_section=one is found.prompts[-1])
    console().print(table)
    for line in sentences(found, price):
        typer.echo(line)
    if asking:
        typer.echo(f"not in it: what {' and '.join(asking)} among the filters will ask a model about every triplet")


def sentences(found: Estimate, price: float | None) -> list[str]:
    """What an estimate says, beside its table."""
    lines = [f"triplets: {found.triplets:,} ({found.least:,} to {found.most:,})"]
    if not found.timed:
        return [*lines, "every answer of the sample was in the ledger already: nothing could be timed"]
    gpus = "1 GPU or machine" if found.devices == 1 else f"{found.devices} GPUs or machines"
    lines.append(f"time: {_duration(found.hours)} on {gpus}, {found.start_seconds:.0f} s of it to start the engine")
    if price is not None:
        money = found.money(price)
        each = f", {money / found.triplets * 1000:,.4g} per thousand triplets" if found.triplets else ""
        lines.append(f"money: {money:,.2f} at {price:,.2f} per GPU hour{each}")
    lines.append(
        f"how: {found.timed:,} requests were timed, {found.chunk:,} at once as in the run; captions are scaled by the"
        " number of images, the other prompts by the number of rows, each with the sample's retries and with the share"
        " of it that the ledger had. A sample smaller than that many requests leaves the engine idle: the run is then"
        " faster than this"
    )
    return lines


def _cells(one: Expected) -> tuple[str, ...]:
    numbers = (one.requests, one.to_ask, one.tokens_in, one.tokens_out)
    return (one.prompt, *(f"{number:,}" for number in numbers), f"{one.seconds / 3600:.3g}")


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
