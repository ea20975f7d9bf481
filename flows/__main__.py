"""The command line: `python -m flows`, from the root of the repository."""

import os
import sys
from typing import Annotated

import typer

from data.home import home, writable_home
from data.offline import go_offline
from flows.convert import convert
from flows.estimate import execute_estimate
from flows.evaluate import evaluate
from flows.execute import USAGE, execute, list_fields
from flows.explain import explain
from flows.export import export
from flows.score import score
from flows.search import search
from flows.status import status
from flows.store_commands import store
from flows.view import view


def never_ask_a_hub() -> None:
    """Switch every library below offline.

    Raises:
        RuntimeError: if one was imported already, and may have read its settings.
    """
    early = [name for name in ("huggingface_hub", "transformers", "datasets") if name in sys.modules]
    if early and os.environ.get("HF_HUB_OFFLINE") != "1":
        raise RuntimeError(f"{', '.join(early)} was imported before --offline could be settled; set HF_HUB_OFFLINE=1")
    go_offline()


app = typer.Typer(
    help="From a folder of unlabelled images to a trained zero-shot composed image retriever.\n\n"
    "Start with `python -m flows demo`. Finished stages are kept below CIRQUE_HOME (default .cirque/) and found again,"
    " so that every command can be stopped and repeated at any time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# What has nothing to show without keeping something below CIRQUE_HOME.
_KEEPERS = ("demo", "run", "evaluate", "convert", "search")


@app.callback()
def before_all(
    context: typer.Context,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no hub for anything; what is not on this machine is an error.")
    ] = False,
) -> None:
    """Settles what has to be known before any library is imported."""
    # Torch's threads sleep while they wait for each other. Spinning, as is their default, two of them on two cores that
    # others used as well took 12.8 s for a step of instruct_cir, and asleep 1.6 s (docs/instruct_cir.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if offline:
        never_ask_a_hub()
    try:
        writable_home() if context.invoked_subcommand in _KEEPERS else home()
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USAGE) from None


@app.command()
def demo() -> None:
    """Run the whole MRA-CIR recipe on the tiny world, with the models that come with the repository.

    The same as `run mra_cir`. A second call finds every stage cached.
    """
    execute("mra_cir", [], [], None)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe: a file in flows/, such as mra_cir.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as sample.low=41 or train.seeds=0,1,2."),
    ] = None,
    rerun: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Make this stage anew, and all that is built on it. Repeatable."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Ask for a sample of the texts, print what all would come to, and stop."),
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="With --estimate: how many pairs or images to try.")] = 200,
    gpu_hour_price: Annotated[
        float | None, typer.Option(help="Price of a GPU hour: the estimate and the report then speak of money.")
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Print every setting with its default, and stop.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub for anything.")] = False,
) -> None:
    """Run a recipe; stages whose settings and inputs are unchanged come from the store.

    Examples:

      python -m flows run mra_cir sample.low=41 sample.high=50

      python -m flows run mra_cir ingest.source=folder ingest.path=photos --until generate

      python -m flows run mra_cir --rerun train

      python -m flows run mra_cir --estimate --gpu-hour-price 2.50
    """
    if offline:
        never_ask_a_hub()
    settings = assignments or []
    if gpu_hour_price is not None:
        settings = [*settings, f"report.gpu_hour_price={gpu_hour_price}"]
    if fields:
        list_fields(recipe)
    elif estimate and until is not None:
        typer.echo("error: --estimate stops before `generate`; leave out --until", err=True)
        raise typer.Exit(USAGE)
    elif estimate:
        execute_estimate(recipe, settings, rerun or [], sample)
    else:
        execute(recipe, settings, rerun or [], until)


app.command()(status)
app.command()(explain)
app.command()(score)
app.command()(evaluate)
app.command()(convert)
app.command()(search)
app.command()(export)
app.command()(view)
app.add_typer(store, name="store")

if __name__ == "__main__":
    app(prog_name="python -m flows")
