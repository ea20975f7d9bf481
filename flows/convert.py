"""`python -m flows convert`: a checkpoint in Hugging Face's format, from LAVIS's files or with other preprocessing."""

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from tasks import convert as conversion


def convert(
    source: Annotated[str, typer.Argument(help="A shipped name, a folder, qformer.pth+tower.pth, or owner/name.")],
    folder: Annotated[Path, typer.Argument(help="Where the copy goes; empty or missing.")],
    fit: Annotated[
        str | None, typer.Option(help="squash or target_pad; default: as the source. Part of every key that follows.")
    ] = None,
    max_text_tokens: Annotated[
        int | None, typer.Option(min=1, help="Texts are cut here; default: as the source.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the written weights: float32, float16 or bfloat16.")] = "float32",
) -> None:
    """Write a checkpoint in Hugging Face's format, with a card.

    Examples:

      python -m flows convert blip2_pretrained_vitL.pth+clip_vit_L.pth checkpoints/blip2_vit_l

      python -m flows convert Salesforce/blip2-itm-vit-g checkpoints/blip2_padded --fit target_pad
    """
    if fit not in (None, "squash", "target_pad"):
        raise typer.BadParameter(f"fit must be squash or target_pad, got {fit!r}")
    if dtype not in ("float32", "float16", "bfloat16"):
        raise typer.BadParameter(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")
    try:
        chosen = cast('Literal["squash", "target_pad"] | None', fit)
        found = conversion.convert(source, folder, fit=chosen, max_text_tokens=max_text_tokens, dtype=dtype)
    except (OSError, LookupError, ValueError) as error:
        text = error.args[0] if isinstance(error, LookupError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"{folder}: images {found['fit']}, texts of at most {found['max_text_tokens']} tokens")
