"""`python -m flows view`: a page to look at triplets, judge them, try a retriever and compare runs."""

from pathlib import Path
from typing import Annotated

import typer


def view(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|ARTIFACT]",
            help="Id of a run, or folder of a sealed artifact with triplets; the last run if left out.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than loopback let everybody who reaches it judge.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8484,
    author: Annotated[str | None, typer.Option(help="Whose verdicts these are; your user name if left out.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="For Try it: a name, a folder, a Hugging Face id, or RUN or RUN/seed-1."),
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="For Try it: a folder of images; the triplets' own images if left out.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Open a local web page on triplets of any number: browse, judge, try, compare.

    Nothing leaves this machine. Verdicts are kept below CIRQUE_HOME/curation; `export --verdict approved` and
    `curate.verdict=approved` use them. Stop it with Ctrl-C.
    """
    from flows.view.serve import serve  # NiceGUI takes seconds to import

    try:
        serve(source, host, port, author, checkpoint, gallery, open_page)
    except (LookupError, OSError, ValueError) as error:
        told = error.args[0] if isinstance(error, LookupError) and error.args else error
        typer.echo(f"error: {told}", err=True)
        raise typer.Exit(1) from None
