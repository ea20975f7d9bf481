"""What the last runs did, for people and as JSON."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from data.artifact import read_table
from data.schemas import SCORES
from flows.tables import console, score_tables, stage_table
from tasks.runs import RunRecord, StageRecord, load_run, recorded_runs
from tasks.store import home

_SHOWN = 10


def status(
    run: Annotated[str | None, typer.Argument(help="Id of a run; the last one if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as one JSON object.")] = False,
) -> None:
    """Show the runs, and of the last one every stage: its state, rows, drops and time.

    A stage is `ran` or `cached`, `failed`, `interrupted` (the run was stopped, or its process died), `running` or
    still `pending`.
    """
    try:
        record = load_run(run or last_run())
    except LookupError as error:
        typer.echo(f"error: {error.args[0]}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(as_object(record), indent=2))
        return
    if run is None:
        console().print(_runs_table())
    show(record)


def show(record: RunRecord) -> None:
    """Print a run's tables and where its report lies."""
    out = console()
    out.print(stage_table(record))
    for table in score_tables(scores_of(record)):
        out.print(table)
    report = report_of(record)
    if report is not None:
        typer.echo(f"report: {report}")


def last_run() -> str:
    """Id of the last run.

    Raises:
        LookupError: if there is none yet.
    """
    runs = recorded_runs()
    if not runs:
        raise LookupError(f"no run yet in {home()}; start one with: python -m flows demo")
    return runs[-1]


def as_object(record: RunRecord) -> dict[str, Any]:
    """The run as `status --json` prints it."""
    report = report_of(record)
    return {
        "run": record.run,
        "recipe": record.recipe,
        "stages": [_stage_object(row) for row in record.stages],
        "scores": scores_of(record),
        "report": None if report is None else str(report),
    }


def scores_of(record: RunRecord) -> list[dict[str, Any]]:
    """Rows of the run's score table; none if it was not reached, or was deleted since."""
    path = _made(record, "scores.parquet")
    return [] if path is None else list(read_table(path, SCORES).to_pylist())


def report_of(record: RunRecord) -> Path | None:
    """The page to open, if the run came that far."""
    return _made(record, "report.html")


def _made(record: RunRecord, name: str) -> Path | None:
    made = [home() / row.artifact / name for row in record.stages if row.artifact]
    return next((path for path in reversed(made) if path.is_file()), None)


def _stage_object(row: StageRecord) -> dict[str, Any]:
    return {
        "stage": row.stage,
        "state": "pending" if row.state == "running" else row.state,  # of a living process: not done yet
        "read": row.read,
        "kept": row.kept,
        "dropped": row.dropped,
        "written": row.written,
        "seconds": row.seconds,
        "artifact": None if row.artifact is None else str(home() / row.artifact),
    }


def _runs_table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"last runs in {home()}", title_justify="left")
    for name in ("run", "recipe", "state", "ran", "cached", "stage in hand"):
        table.add_column(name)
    for name in recorded_runs()[-_SHOWN:]:
        try:
            record = load_run(name)
        except LookupError:
            table.add_row(name, "", "unreadable", "", "", "")
            continue
        states = [row.state for row in record.stages]
        counts = [str(states.count(state)) for state in ("ran", "cached")]
        table.add_row(name, record.recipe, record.state, *counts, record.stage_in_hand() or "")
    return table
