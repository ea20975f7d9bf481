"""What an artifact was made from, found in the store by what its manifest says."""

from pathlib import Path

from data.artifact import Artifact, read_manifest
from tasks.runs import RunRecord, load_run, recorded_runs
from tasks.store import Slot, home


def lineage(artifact: Artifact) -> list[Artifact]:
    """The artifact and all it stands on, each after its inputs; those that are in the store no more are left out."""
    found: dict[str, Artifact] = {}

    def visit(one: Artifact) -> None:
        for source in one.manifest["inputs"].values():
            slot = Slot(home(), source["stage"], source["key"])
            if source["key"] not in found and (slot.sealed / "manifest.json").is_file():
                visit(Artifact(slot.sealed, source["stage"], source["key"]))
        found.setdefault(one.key, one)

    visit(artifact)
    return list(found.values())


def ancestor_with(artifact: Artifact, name: str) -> Artifact:
    """The nearest artifact in the lineage that has a file `name`.

    Raises:
        LookupError: if there is none in the store.
    """
    for one in reversed(lineage(artifact)):
        if (one.path / name).is_file():
            return one
    raise LookupError(f"{artifact.path} stands on no artifact in {home()} that has {name}; make it again with its run")


def open_sealed(folder: Path) -> Artifact:
    """A sealed folder as an artifact.

    Raises:
        FileNotFoundError, ValueError: if it is not sealed.
    """
    manifest = read_manifest(folder)
    return Artifact(folder, str(manifest["stage"]), str(manifest["key"]))


def find_with(name: str | None, file: str) -> Artifact:
    """The artifact that somebody means.

    Args:
        name: the folder of a sealed artifact, such as .cirque/store/generate/0123..., or `generate/0123...` in the
            store, or the id of a run; None: the last run.
        file: a file that it must have; of a run, the last stage with such a file is taken.

    Raises:
        LookupError: if there is no such thing.
        FileNotFoundError, ValueError: if the folder is not sealed.
    """
    if name is not None:
        for folder in (Path(name), home() / "store" / name):
            if folder.is_dir():
                artifact = open_sealed(folder)
                artifact.file(file)
                return artifact
        if "/" in name:
            raise LookupError(f"no artifact {name!r}: there is no such folder, nor one below {home() / 'store'}")
    runs = recorded_runs()
    if name is None and not runs:
        raise LookupError(f"no run yet in {home()}; start one with: python -m flows demo")
    record = load_run(runs[-1] if name is None else name)
    if (found := _last_with(record, file)) is not None:
        return open_sealed(found)
    having = next((run for run in reversed(runs) if _has(run, file)), None)
    advice = "" if having is None else f"; the last run with such a stage is {having}: name it"
    raise LookupError(f"run {record.run} of {record.recipe} has no finished stage with {file}{advice}")


def _last_with(record: RunRecord, file: str) -> Path | None:
    """Folder of the run's last stage that has the file."""
    folders = (home() / row.artifact for row in reversed(record.stages) if row.artifact is not None)
    return next((folder for folder in folders if (folder / file).is_file()), None)


def _has(run: str, file: str) -> bool:
    try:
        return _last_with(load_run(run), file) is not None
    except LookupError:  # its record is damaged, and it is not the run that was asked for
        return False
