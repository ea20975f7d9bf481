"""Where everything that is kept between runs lies."""

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def home() -> Path:
    """The store's place: CIRQUE_HOME, else `.cirque` in the repository.

    Raises:
        ValueError: if it is on an object store, which has neither locks nor renames, or is a file.
    """
    given = os.environ.get("CIRQUE_HOME", "").removeprefix("file://")
    if "://" in given:
        raise ValueError(
            f"CIRQUE_HOME={given} is no folder. The store needs locks that end with their process and renames of whole"
            " folders, which object stores do not have; give a folder on a file system that all workers see, and mirror"
            " finished artifacts with your object store's own tools (docs/operate.md)"
        )
    place = Path(given or _ROOT / ".cirque").absolute()
    if os.path.isfile(place):
        raise ValueError(f"CIRQUE_HOME={place} is a file; give a folder, or a path where one can be made")
    return place


def writable_home() -> Path:
    """`home`, for what is about to keep something there; it need not exist yet.

    Raises:
        ValueError: as `home`, or if nothing can be written there.
    """
    place = home()
    nearest = next(folder for folder in (place, *place.parents) if os.path.exists(folder))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        fault = "this user may not write to" if nearest.is_dir() else "there is a file at"
        raise ValueError(f"nothing can be kept in CIRQUE_HOME={place}: {fault} {nearest}; give another folder")
    return place
