"""Why a stage ran again, or why it did not: the difference between two keys, in words."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from data.suggest import did_you_mean
from flows.status import last_run
from tasks.runs import RunRecord, StageRecord, load_run, recorded_runs

_ABSENT = object()


def explain(stage: Annotated[str, typer.Argument(help="Name of a stage of the last run.")]) -> None:
    """Say what changed in a stage's key since the run before, and why it ran or did not."""
    try:
        lines = list(explanation(stage))
    except LookupError as error:
        typer.echo(f"error: {error.args[0]}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(lines))


def explanation(stage: str) -> Iterator[str]:
    """The lines of `explain`.

    Raises:
        LookupError: if there is no run, or the last one has no such stage.
    """
    record = load_run(last_run())
    row = _row(record, stage)
    if row is None:
        names = [row.stage for row in record.stages]
        raise LookupError(f"no stage {stage!r} in run {record.run} of {record.recipe};{did_you_mean(stage, names)}")
    yield f"{stage}: {row.state} in run {record.run}" + (f", because {row.reason}" if row.reason else "")
    if row.material is None:
        yield "  it has no key in this run: the run did not come that far"
        return
    before = _run_before(record, stage)
    if before is None:
        yield f"  no earlier run of {record.recipe} came to {stage}: there is nothing to compare with"
        return
    changes = list(_changes(record, before, row))
    if not changes:
        yield f"  its key {str(row.key)[:12]} is the same as in run {before.run}"
        return
    yield f"  its key changed since run {before.run}:"
    yield from (f"  {line}" for line in changes)


def _changes(now: RunRecord, before: RunRecord, row: StageRecord) -> Iterator[str]:
    """One line per part of the key that differs, followed by why an input is another one."""
    old = _row(before, row.stage)
    if old is None or old.material is None or row.material is None or old.key == row.key:
        return
    for part in ("version", "config", "facts"):
        then, today = _flat(old.material[part], part), _flat(row.material[part], part)
        for name in dict.fromkeys([*then, *today]):
            if then.get(name, _ABSENT) != today.get(name, _ABSENT):
                yield f"  {name}: {_text(then.get(name, _ABSENT))} -> {_text(today.get(name, _ABSENT))}"
    then, today = old.material["inputs"], row.material["inputs"]
    for name in dict.fromkeys([*then, *today]):
        if then.get(name) == today.get(name):
            continue
        stage = (today.get(name) or then[name])["stage"]
        keys = [source["key"][:12] if source else "(absent)" for source in (then.get(name), today.get(name))]
        yield f"  input {name}: another artifact of stage {stage} ({keys[0]} -> {keys[1]}), because there"
        upstream = _row(now, stage)
        if upstream is not None:
            yield from (f"  {line}" for line in _changes(now, before, upstream))


def _row(record: RunRecord, stage: str) -> StageRecord | None:
    return next((row for row in record.stages if row.stage == stage), None)


def _run_before(record: RunRecord, stage: str) -> RunRecord | None:
    for name in reversed([name for name in recorded_runs() if name < record.run]):
        try:
            before = load_run(name)
        except LookupError:  # damaged; an earlier one may do
            continue
        row = _row(before, stage)
        if before.recipe == record.recipe and row is not None and row.key is not None:
            return before
    return None


def _flat(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{path}.{name}")
    return flat


def _text(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    if isinstance(value, str):
        return value[:12] if re.fullmatch("[0-9a-f]{40,}", value) else value
    return json.dumps(value)
