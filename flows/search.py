"""`python -m flows search`: the images of a folder that are nearest to a reference image and a text."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from data.config import Resources
from flows.tables import console
from tasks.display import dropped_by_reason
from tasks.search import Found, Gallery, load_encoder, open_gallery, open_reference
from tasks.search import search as search_gallery
from tasks.trained import checkpoint_of


def search(
    checkpoint: Annotated[str, typer.Option(help="a name, a folder, a Hugging Face id, or RUN or RUN/seed-1")],
    gallery: Annotated[Path, typer.Option(help="folder of images, at any depth")],
    image: Annotated[Path, typer.Option(help="the reference image, in the gallery or not")],
    text: Annotated[str, typer.Option(help="what is to be changed, such as 'make it red'")],
    k: Annotated[int, typer.Option("--k", min=1, help="images to find")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    keep_reference: Annotated[
        bool, typer.Option("--keep-reference", help="also rank the reference, if it is in the gallery")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="images per forward pass")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="threads that read images")] = 2,
) -> None:
    """Find the images of a folder that a reference image and a text describe.

    The folder's images are encoded once and kept below CIRQUE_HOME; after that only new ones are.
    """
    try:
        if not text.strip():
            raise ValueError("--text is empty; say what is to be changed, such as --text 'make it red'")
        open_reference(image)  # before the folder is encoded, which may take long
        resources = Resources.model_validate({"device": device, "batch_size": batch_size, "workers": workers})
        name = checkpoint_of(checkpoint)
        opened = open_gallery(gallery, name, resources)
        encoder = load_encoder(name, device)
        found = search_gallery(opened, encoder, image, text, k, keep_reference)
    except (LookupError, ValueError, OSError) as error:
        told = error.args[0] if isinstance(error, LookupError) and error.args else error
        print(f"error: {told}", file=sys.stderr)
        raise typer.Exit(1) from error
    for note in notes(opened, found, encoder.truncations, encoder_limit(encoder)):
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(answer(checkpoint, gallery, image, text, opened, found), allow_nan=False))
    else:
        show(found, text)


def encoder_limit(encoder: object) -> int | None:
    """Where the encoder cuts texts, if it says so."""
    limit = getattr(encoder, "max_text_tokens", None)
    return limit if isinstance(limit, int) else None


def notes(gallery: Gallery, found: Found, truncations: int, limit: int | None) -> list[str]:
    """What a user should know beside the answer."""
    counts = gallery.images.counts
    told = []
    if counts.dropped:
        reasons = dropped_by_reason(counts.dropped, ", ")
        told.append(f"{counts.read - counts.kept:,} of {counts.read:,} files are not used: {reasons}")
    if found.excluded is not None:
        told.append(f"{found.excluded} is the reference and is not ranked; --keep-reference ranks it")
    if truncations:
        told.append(f"the text is longer than the {limit or 'few'} tokens that the model reads; its end is ignored")
    return told


def answer(checkpoint: str, folder: Path, image: Path, text: str, gallery: Gallery, found: Found) -> dict[str, object]:
    """The answer as plain values."""
    return {
        "checkpoint": checkpoint,
        "gallery": str(folder),
        "images": len(gallery.rows),
        "image": str(image),
        "text": text,
        "excluded": found.excluded,
        "features": gallery.states["encode"],
        "results": [asdict(hit) for hit in found.hits],
    }


def show(found: Found, text: str) -> None:
    """Print the images found, best first."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title=text, title_justify="left")
    shown.add_column("rank", justify="right", no_wrap=True)
    shown.add_column("score", justify="right", no_wrap=True)
    shown.add_column("image", overflow="fold")
    for hit in found.hits:
        shown.add_row(str(hit.rank), f"{hit.score:.4f}", hit.image_id)
    console().print(shown)
