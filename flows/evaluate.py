"""`python -m flows evaluate`: checkpoints on the real benchmarks, by their official protocols."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from data.config import Resources, StageConfig
from data.images import BadImage
from data.progress import reporting_to
from data.submissions import FILES
from flows.overrides import ConfigError, configure
from flows.results import features_table, paired_table, protocol_lines, score_tables
from flows.score import parse_choices
from flows.tables import console
from tasks.display import Display, choose_display, dropped_by_reason
from tasks.measure import BASELINE_METHODS, Encoded, NotReady, Prepared, measure, prepare
from tasks.runs import StageRecord
from tasks.score import check_names
from tasks.score_tables import Results, results, write
from tasks.target_texts import MissingTexts, TargetTextConfig, TargetTexts, check_writer, write_target_texts
from tasks.trained import checkpoint_of


class Settings(StageConfig):
    """What `--set` may change; most of it has options of its own too."""

    resources: Resources = Resources()
    target_texts: TargetTextConfig = TargetTextConfig(model="")


def evaluate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="names, folders, Hugging Face ids, or RUN or RUN/seed-1; the later ones are compared with the first",
        ),
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
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="further resources as for run, and how target texts are asked for, such as"
            " resources.endpoints=http://host:8000/v1 or target_texts.sampling.max_tokens=200; repeatable",
        ),
    ] = None,
) -> None:
    """Measure checkpoints on the real benchmarks and print one table.

    Joint inference by a model behind servers:

      python -m flows evaluate CHECKPOINT --benchmark cirr --root DIR --backend openai --target-texts NAME
        --set resources.endpoints=http://one:8000/v1,http://two:8000/v1
    """
    try:
        names = check_names(benchmark.split(","))
        choices = {name: split_choices(protocol or [], name, names) for name in names}
        own = {"device": device, "batch_size": batch_size, "workers": workers}
        settings = settled(own, target_texts, backend, assignments or [])
        resources = settings.resources
        labels = {short: checkpoint_of(name) for short, name in label(checkpoints).items()}
        if split == "test" and depth < 50 and any(name in FILES for name in names):
            raise ValueError(f"submission files hold 50 images per query, so --depth {depth} is too few")
        with choose_display() as display:
            with phase(display, "images"):
                prepared = prepare(choices, split, root, allow_missing, resources)
            texts = None
            if target_texts is not None:
                with phase(display, "texts"):
                    texts = write_texts(prepared, settings, allow_missing, out, display)
            with phase(display, "answers"):
                methods = BASELINE_METHODS if baselines else ()
                found = measure(prepared, labels, methods, depth, resources, texts, weight)
            with phase(display, "scores"):
                numbers = results(found.measured)
                files, notes = write(out, found, numbers, depth)
        if examples:
            from tasks.report_answers import write_page

            files.append(write_page(out / "answers.html", found, examples))
    except (LookupError, ValueError, OSError, NotReady, MissingTexts, BadImage) as error:
        for problem in problems_of(error):
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(1) from error
    show(numbers, found.encoded)
    for file in files:
        print(file)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def problems_of(error: Exception) -> list[str]:
    """What an error says, one text for each thing that is wrong."""
    if isinstance(error, ConfigError | NotReady):
        return error.problems
    return [str(error.args[0] if isinstance(error, LookupError) and error.args else error)]


def settled(own: Mapping[str, object], model: str | None, backend: str, assignments: Sequence[str]) -> Settings:
    """All settings, looked at before any work starts.

    Args:
        own: resources that have options of their own.
        model, backend: of the target texts; no model: there will be none.
        assignments: of `--set`.

    Raises:
        ValueError, LookupError: for settings that are not taken, that nothing would use, or a backend that cannot work
            with them.
    """
    words = [f"resources.{name}={value}" for name, value in own.items()]
    words += [f"target_texts.backend={backend}"] + ([f"target_texts.model={model}"] if model is not None else [])
    settings = configure(Settings, [*words, *assignments])
    if model is None:
        if unused := [word for word in assignments if word.startswith("target_texts.")]:
            raise ValueError(f"--set {unused[0]} is about target texts, and none are written without --target-texts")
        return settings
    check_writer(settings.target_texts, settings.resources)
    return settings


def write_texts(
    prepared: list[Prepared], settings: Settings, allow_missing: bool, out: Path, display: Display
) -> TargetTexts:
    """The target texts of all queries; the model's answers are kept in `out` too.

    Raises:
        MissingTexts: if a query has none, unless `allow_missing`.
    """
    out.mkdir(parents=True, exist_ok=True)
    benchmarks = [one.benchmark for one in prepared]
    texts = write_target_texts(benchmarks, settings.target_texts, settings.resources, out / "generations.parquet")
    if not allow_missing:
        texts.check()
    display.say(f"target texts: {texts.asked} requests, {texts.reused} known before")
    for name, lost in texts.faults.items():
        if lost:
            reasons = Counter(reason for reason, _ in lost.values())
            nothing = "" if texts.texts[name] else ", so it has no rows target_text and joint"
            display.say(
                f"target texts: {len(lost)} queries of {name} have none ({dropped_by_reason(reasons)}){nothing}"
            )
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


@contextmanager
def phase(display: Display, name: str) -> Iterator[None]:
    """Show the progress of a part of the work, and in the end how long it took."""
    started = time.perf_counter()
    display.begin(name)
    with reporting_to(display.reporter(name)):
        yield
    display.end(StageRecord(stage=name, state="ran", seconds=time.perf_counter() - started))


def show(found: Results, encoded: Sequence[Encoded]) -> None:
    """Print scores, protocols, paired tests and where the features came from."""
    screen = console()
    for scores in score_tables(found.scores, found.ties):
        screen.print(scores)
    for line in protocol_lines(found.scores):
        screen.print(line, markup=False)
    tests = paired_table(found.tests)
    if tests is not None:
        screen.print(tests)
    screen.print(features_table(encoded))
