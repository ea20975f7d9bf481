"""The command `evaluate` as a flow, so that a server can run it: on a schedule, or from its pages."""

from pathlib import Path

import typer
from prefect import flow

from data.artifact import read_table
from data.schemas import SCORES
from flows.evaluate import evaluate
from tasks.shown import show_link, show_scores


@flow(name="evaluate_checkpoint")
def evaluate_checkpoint(
    checkpoints: list[str], benchmark: str, root: Path, out: Path = Path("evaluation"), split: str = "val"
) -> str:
    """Measure checkpoints on the real benchmarks; returns the folder of the tables.

    Args:
        checkpoints: names, folders or Hugging Face ids; the second and later ones are compared with the first.
        benchmark: names, separated by commas.
        root: folder with the benchmarks' files, as seen by the worker.
        out: folder for tables, predictions and submission files.
        split: val, or test for submission files.

    Raises:
        RuntimeError: saying what is wrong, if it cannot be measured.
    """
    try:
        evaluate(checkpoints, benchmark, root, split, out)
    except typer.Exit as stop:
        raise RuntimeError(f"{', '.join(checkpoints)} could not be measured: {stop.__cause__}") from stop
    scores = read_table(out / "scores.parquet", SCORES).to_pylist()
    show_scores("evaluate-checkpoint", scores, f"percent, {', '.join(checkpoints)}")
    page = out / "answers.html"
    if page.is_file():
        show_link("evaluate-checkpoint-answers", page.absolute(), "answers to some queries")
    return str(out)
