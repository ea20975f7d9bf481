"""`python -m flows store`: what lies in the store, how large it is, what may go, and whether it is whole."""

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.table import Table

from data.artifact import read_manifest, set_aside
from data.home import writable_home
from data.suggest import did_you_mean
from flows.tables import console
from tasks.locks import hold
from tasks.room import spelt
from tasks.store import Slot, home
from tasks.upkeep import (
    Holding,
    artifact_named,
    collect,
    damage,
    folder_size,
    holdings,
    loose_faults,
    pin,
    pins,
    unpin,
    wanted,
)

KEEP = 5

store = typer.Typer(
    help="Look after the store: list it, measure it, verify it, free space.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Keep = Annotated[int, typer.Option("--keep", min=0, help="remember this many runs of each recipe")]


@store.command("ls")
def list_artifacts(
    stage: Annotated[str | None, typer.Argument(help="Only the artifacts of this stage.")] = None,
    keep: Keep = KEEP,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the artifacts, and whether `store gc` would keep each."""
    known = list(holdings(home()))
    stages = {holding.stage for holding in known}
    if stage is not None and stage not in stages:
        _stop(LookupError(f"no artifact of a stage {stage!r} in {home()};{did_you_mean(stage, stages)}"))
    try:
        reached = wanted(home(), keep)
    except LookupError as error:
        _stop(error)
    still, pinned = reached, {(one.get("stage"), one.get("key")) for one in pins(home()).values()}
    rows = [
        {
            "stage": holding.stage,
            "key": holding.key,
            "kind": "sealed" if holding.kind == "store" else "unfinished",
            **_facts(holding),
            "bytes": holding.bytes(),
            "kept": "pinned" if holding.name in pinned else "yes" if holding.name in still else "no",
        }
        for holding in known
        if stage in (None, holding.stage)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"artifacts in {home()}", title_justify="left")
    for name in ("artifact", "kind", "created", "rows", "size", "kept by gc"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("rows", "size") else "left")
    for row in rows:
        written = "" if row["written"] is None else f"{row['written']:,}"
        name = f"{row['stage']}/{row['key'][:12]}"
        table.add_row(name, row["kind"], row["created"] or "", written, spelt(row["bytes"]), row["kept"])
    console().print(table)


@store.command("du")
def measure(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False) -> None:
    """Say how many bytes every folder of the store takes, the artifacts by stage."""
    sizes = {}
    for folder in sorted(path for path in home().glob("*") if path.is_dir()):
        for part in sorted(folder.iterdir()) if folder.name in ("store", "partial") else [folder]:
            files, size = folder_size(part)
            if files:
                sizes[part.relative_to(home()).as_posix()] = {"files": files, "bytes": size}
    if as_json:
        typer.echo(json.dumps(sizes, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"{home()}", title_justify="left")
    table.add_column("folder")
    for name in ("files", "size"):
        table.add_column(name, justify="right")
    for name, row in sizes.items():
        table.add_row(name, f"{row['files']:,}", spelt(row["bytes"]))
    table.add_section()
    total = sum(row["bytes"] for row in sizes.values())
    table.add_row("all", f"{sum(row['files'] for row in sizes.values()):,}", spelt(total))
    console().print(table)


@store.command("gc")
def collect_garbage(
    keep: Keep = KEEP,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove artifacts that no pin, no run in progress and none of the last runs of a recipe reaches.

    Safe while runs are in progress. Answers of language models (ledger/) and features of images are never removed:
    another run may use them.
    """
    try:
        found = collect(_writable(), keep, dry_run)
    except LookupError as error:
        _stop(error)
    for holding, size in found.removed:
        what = "unfinished, " if holding.kind == "partial" else ""
        verb = "would remove" if dry_run else "removed"
        typer.echo(f"{verb} {holding.stage}/{holding.key[:12]} ({what}{spelt(size)})")
    total = spelt(sum(size for _, size in found.removed))
    verb = "would free" if dry_run else "freed"
    typer.echo(f"{verb} {total} in {len(found.removed)} folders; {len(found.kept)} are kept")


@store.command()
def verify(
    discard: Annotated[
        bool, typer.Option("--discard", help="Take what is damaged out of the store: the next run makes it anew.")
    ] = False,
) -> None:
    """Read every file of every artifact and compare it with what was sealed; exit with 1 if anything differs."""
    if discard:
        _writable()
    checked, damaged = 0, 0
    for holding in holdings(home()):
        if holding.kind != "store":
            continue
        checked += 1
        found = damage(holding)
        damaged += bool(found)
        for fault in found:
            typer.echo(f"damaged: {holding.stage}/{holding.key[:12]}: {fault}")
        if found and discard:
            slot = Slot(home(), holding.stage, holding.key)
            with hold(slot.lock, lambda holder: typer.echo(f"{holder} works on this artifact; waiting for it")):
                if damage(holding):  # nobody made it anew meanwhile
                    slot.discard_sealed()
            typer.echo(f"discarded: {holding.stage}/{holding.key[:12]}")
    for path, fault in loose_faults(home()):
        damaged += 1
        typer.echo(f"damaged: {path.relative_to(home())}: {fault}")
        if discard:
            torn = set_aside(path)  # as a run does that comes across it
            typer.echo(f"set aside: {torn.relative_to(home())}")
    typer.echo(f"{checked} artifacts read, {damaged} damaged")
    if damaged:
        hint = "" if discard else "; `store verify --discard` takes what is damaged out, the next run makes it anew"
        typer.echo(f"error: the store is damaged{hint}", err=True)
        raise typer.Exit(1)


@store.command("pin")
def pin_target(
    target: Annotated[str | None, typer.Argument(help="A run's id, or an artifact such as train/3f2a.")] = None,
) -> None:
    """Keep a run, or an artifact with all it was made from, whatever `store gc` removes; without a name, list pins."""
    if target is None:
        for name in pins(home()):
            typer.echo(name)
        return
    try:
        typer.echo(f"pinned {pin(_writable(), target)}")
    except LookupError as error:
        _stop(error)


@store.command("unpin")
def unpin_target(target: Annotated[str, typer.Argument(help="As it was pinned.")]) -> None:
    """Take a pin away."""
    try:
        typer.echo(f"unpinned {unpin(_writable(), target)}")
    except LookupError as error:
        _stop(error)


@store.command("show")
def show_artifact(target: Annotated[str, typer.Argument(help="An artifact such as train/3f2a.")]) -> None:
    """Print an artifact's folder and its manifest."""
    try:
        holding = artifact_named(home(), target)
        manifest = read_manifest(holding.folder)
    except (LookupError, ValueError) as error:
        _stop(error)
    typer.echo(json.dumps({"folder": str(holding.folder), **manifest}, indent=2))


def _facts(holding: Holding) -> dict[str, Any]:
    """When it was made and how many rows it has; None for what is unfinished or damaged."""
    try:
        manifest = read_manifest(holding.folder)
    except (FileNotFoundError, ValueError):
        return {"created": None, "written": None}
    return {"created": manifest.get("created"), "written": manifest["counts"].get("written")}


def _writable() -> Path:
    try:
        return writable_home()
    except ValueError as error:
        _stop(error)


def _stop(error: LookupError | ValueError) -> NoReturn:
    typer.echo(f"error: {error.args[0]}", err=True)
    raise typer.Exit(1) from None
