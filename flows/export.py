"""`export`: triplets as a data set that others can open."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tasks.card import ExportOptions
from tasks.curate import CurateConfig, curate
from tasks.lineage import find_with


class Format(StrEnum):
    """What to write."""

    hf = "hf"
    megapairs = "megapairs"


class Verdict(StrEnum):
    """Whose triplets go along."""

    any = "any"
    approved = "approved"
    not_rejected = "not_rejected"


class Images(StrEnum):
    """How the images go along."""

    embed = "embed"
    paths = "paths"


def export(
    to: Annotated[Path, typer.Option(help="Folder to write; it must be empty or missing.")],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|ARTIFACT]",
            help="Id of a run, or folder of a sealed artifact with triplets; the last run if left out.",
        ),
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="hf: for datasets.load_dataset; megapairs: its JSON lines.")
    ] = Format.hf,
    images: Annotated[
        Images, typer.Option(help="embed: the files go along; paths: only where they lie on this machine.")
    ] = Images.embed,
    verdict: Annotated[
        Verdict,
        typer.Option(
            help="approved: what people approved in `view`, as they edited it; not_rejected: also the unjudged."
        ),
    ] = Verdict.any,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the texts, one of the hub's names such as cc-by-4.0.")
    ] = None,
    image_licence: Annotated[str | None, typer.Option(help="What the card says of the images' licence.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out triplets with an image that cannot be read.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export at the same place.")] = False,
) -> None:
    """Write the triplets of a run as a data set with a card.

    Examples:

      python -m flows export --to triplets --licence cc-by-4.0

      python -m flows export 20260101-120000-000 --to pairs --format megapairs

      python -m flows export --to good --verdict approved
    """
    options = ExportOptions(images.value, licence, image_licence, allow_missing=allow_missing)
    try:
        triplets = find_with(source, "triplets.parquet")
        if verdict is not Verdict.any:
            # As an artifact, so that the card says who judged what, and the same again is found in the store.
            triplets = curate.make(CurateConfig(verdict=verdict.value), triplets).artifact
        if form is Format.hf:
            from tasks.export import export_dataset

            done = export_dataset(triplets, to, options, force)
        else:
            from tasks.megapairs import export_megapairs

            done = export_megapairs(triplets, to, options, force)
    except (LookupError, OSError, ValueError) as error:
        typer.echo(f"error: {error.args[0] if isinstance(error, LookupError) else error}", err=True)
        raise typer.Exit(1) from None
    for name, part in done.parts.items():
        typer.echo(f"{name}: {part.rows:,} rows, {part.file_bytes:,} bytes")
    for reason, count in sorted(done.dropped.items()):
        typer.echo(f"left out, {reason}: {count:,}")
    typer.echo(f"written: {to}")
