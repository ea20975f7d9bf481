"""`python -m flows evaluate`: checkpoints on the real benchmarks, by their official protocols."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from data.config import Resources
from data.images import BadImage
from data.presence import MissingImages
from data.submissions import FILES
from flows.score import parse_choices
from flows.tables import console
from tasks.measure import BASELINE_METHODS, Encoded, Prepared, measure, prepare
from tasks.score import check_names
from tasks.score_tables import grid, rows, write
from tasks.target_texts import MissingTexts, TargetTextConfig, TargetTexts, write_target_texts


def evaluate(
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="the second and later ones are compared with the first")
    ],
    benchmark: Annotated[str, typer.Option(help="names, separated by commas: cirr,circo,fashioniq,genecis")],
    root: Annotated[Path, typer.Option(help="folder with the benchmarks' files, or with a folder for each")],
    split: Annotated[str, typer.Option(help="val, or test for submission files")] = "val",
    out: Annotated[Path, typer.Option(help="where tables, predictions and submission files go")] = Path("evaluation"),
    protocol: Annotated[
        list[str] | None, typer.Option(help="BENCHMARK.key=value, for instance cirr.target=soft; repeat it for several")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="go on without missing images; every score says how many are lost")
    ] = False,
    baselines: Annotated[bool, typer.Option(help="also measure image, text, and image + text alone")] = True,
    target_texts: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="a model that writes the target texts of joint inference; none without it"),
    ] = None,
    backend: Annotated[str, typer.Option(help="engine of that model: a file of models/backends")] = "vllm",
    weight: Annotated[float, typer.Option(min=0, max=1, help="of the target text in joint inference")] = 0.5,
    examples: Annotated[int, typer.Option(min=0, help="queries per benchmark on the page of answers; 0: no page")] = 12,
    depth: Annotated[int, typer.Option(min=1, help="ranked images to keep per query")] = 50,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="images per forward pass")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="threads that read images")] = 2,
) -> None:
    """Measure checkpoints on the real benchmarks and print one table."""
    try:
        names = check_names(benchmark.split(","))
        choices = {name: split_choices(protocol or [], name, names) for name in names}
        resources = Resources.model_validate({"device": device, "batch_size": batch_size, "workers": workers})
        labels = label(checkpoints)
        prepared = [prepare(name, split, root, choices[name], allow_missing, resources) for name in names]
        if split == "test" and depth < 50 and any(name in FILES for name in names):
            raise ValueError(f"submission files hold 50 images per query, so --depth {depth} is too few")
        texts = write_texts(prepared, target_texts, backend, allow_missing, out, resources)
        found = measure(prepared, labels, BASELINE_METHODS if baselines else (), depth, resources, texts, weight)
        files = write(out, found, depth)
        if examples:
            from tasks.report_answers import write_page

            files.append(write_page(out / "answers.html", found, examples))
    except (LookupError, ValueError, OSError, MissingImages, MissingTexts, BadImage) as error:
        text = error.args[0] if isinstance(error, LookupError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        raise typer.Exit(1) from error
    show(rows(found.measured))
    show_features(found.encoded)
    for file in files:
        print(file)


def write_texts(
    prepared: list[Prepared], model: str | None, backend: str, allow_missing: bool, out: Path, resources: Resources
) -> TargetTexts | None:
    """The target texts of all queries, if a model for them is named; its answers are kept in `out` too.

    Raises:
        MissingTexts: if a query has none, unless `allow_missing`.
    """
    if model is None:
        return None
    config = TargetTextConfig(model=model, backend=backend)
    out.mkdir(parents=True, exist_ok=True)
    benchmarks = [one.benchmark for one in prepared]
    texts = write_target_texts(benchmarks, config, resources, out / "generations.parquet")
    if not allow_missing:
        texts.check()
    print(f"target texts: {texts.asked} requests, {texts.reused} known before", file=sys.stderr)
    for name, lost in texts.faults.items():
        if lost:
            nothing = "" if texts.texts[name] else ", so it has no rows target_text and joint"
            print(f"target texts: {len(lost)} queries of {name} have none{nothing}", file=sys.stderr)
    return texts


def split_choices(words: list[str], name: str, names: list[str]) -> dict[str, str]:
    """The choices `name.key=value` of one benchmark; without `name.` they are for the only one there is.

    Raises:
        ValueError: for a word that belongs to none of `names`.
    """
    mine = []
    for word in words:
        owner, dot, _ = word.partition("=")[0].partition(".")
        if not dot and len(names) > 1:
            raise ValueError(f"protocol {word!r} names no benchmark; want {names[0]}.{word} or another of {names}")
        if dot and owner not in names:
            raise ValueError(f"protocol {word!r} is for {owner!r}, which is not measured; here: {', '.join(names)}")
        if not dot or owner == name:
            mine.append(word[len(owner) + 1 :] if dot else word)
    return parse_choices(mine)


def label(checkpoints: list[str]) -> dict[str, str]:
    """A short name for each checkpoint: the end of its path, as much of it as tells them apart."""
    if len(set(checkpoints)) < len(checkpoints):
        raise ValueError("a checkpoint is named twice; want each once")
    short = [Path(one).name for one in checkpoints]
    return dict(zip(short if len(set(short)) == len(short) else checkpoints, checkpoints, strict=True))


def show_features(encoded: list[Encoded]) -> None:
    """Print which image features were computed and which were in the store."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title="image features", title_justify="left")
    for name in ("checkpoint", "benchmark", "images", "state", "key"):
        shown.add_column(name, justify="right" if name == "images" else "left")
    for one in encoded:
        shown.add_row(one.checkpoint, one.benchmark, f"{one.images:,}", one.state, one.key[:12])
    console().print(shown)


def show(table: list[dict[str, object]]) -> None:
    """Print the scores: percent, with 95 % intervals, a block of rows per benchmark."""
    from rich import box
    from rich.table import Table

    for title, methods, lines in grid(table):
        shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        shown.add_column("metric", no_wrap=True)
        for method in methods:
            shown.add_column(method, justify="right")
        for line in lines:
            shown.add_row(*line)
        console().print(shown)
