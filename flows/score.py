"""`python -m flows score`: finished rankings of a real benchmark, scored without images."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tasks.score import score as score_files


def parse_choices(words: list[str]) -> dict[str, str]:
    """`key=value` words as a mapping.

    Raises:
        ValueError: for a word without `=`, or a key that is given twice.
    """
    choices: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"protocol {word!r}; want key=value, for instance reference=mask")
        if key in choices:
            raise ValueError(f"protocol key {key!r} is given twice: {choices[key]!r} and {value!r}")
        choices[key] = value
    return choices


def score(
    benchmark: Annotated[str, typer.Option(help="fashioniq, cirr, circo or genecis")],
    root: Annotated[Path, typer.Option(help="folder with the benchmark's annotation files, or its parent")],
    split: Annotated[str, typer.Option(help="a split with public targets")] = "val",
    protocol: Annotated[
        list[str] | None, typer.Option(help="key=value that changes the scoring; repeat it for several")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="further protocol choices")] = None,
    predictions: Annotated[Path | None, typer.Option(help="JSON: query id to ranked gallery ids, best first")] = None,
    features: Annotated[
        Path | None, typer.Option(help="NPZ: query and gallery features, or GeneCIS similarities")
    ] = None,
    intervals: Annotated[bool, typer.Option(help="add 95 % bootstrap intervals")] = False,
) -> None:
    """Score rankings of a benchmark from a file and print one JSON object; no images are needed."""
    try:
        if (predictions is None) == (features is None):
            raise ValueError("give either --predictions FILE.json or --features FILE.npz")
        choices = parse_choices([*(protocol or []), *(more or [])])
        scored = score_files(benchmark, split, root, choices, predictions, features)
    except (LookupError, ValueError, OSError) as error:
        text = error.args[0] if isinstance(error, LookupError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        raise typer.Exit(1) from error
    for note in scored.notes:
        print(f"note: {note}", file=sys.stderr)
    report = scored.report() | ({"intervals": scored.intervals()} if intervals else {})
    print(json.dumps(report, allow_nan=False))
