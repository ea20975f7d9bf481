"""The checkpoints that runs trained, by the name of the run."""

from models.checkpoints import check_name
from tasks.runs import load_run, recorded_runs
from tasks.store import home


def checkpoint_of(name: str) -> str:
    """The folder behind "RUN" (its first seed) or "RUN/seed-2"; any other name that a checkpoint may have as it is.

    Raises:
        LookupError: if there is such a run but it trained no such checkpoint, or nothing has that name.
        FileNotFoundError: if a file of LAVIS's is not there.
    """
    run, _, seed = name.partition("/")
    if run not in recorded_runs():
        check_name(name)
        return name
    artifact = next((row.artifact for row in load_run(run).stages if row.stage == "train" and row.artifact), None)
    folders = [] if artifact is None else sorted((home() / artifact).glob("seed-*"))
    if not folders:
        raise LookupError(f"run {run} trained no checkpoint; let it run to the end of its stage train")
    if not seed:
        return str(folders[0])
    found = next((folder for folder in folders if folder.name == seed), None)
    if found is None:
        raise LookupError(f"run {run} trained no {seed!r}; there is {', '.join(folder.name for folder in folders)}")
    return str(found)
