"""Where everything that is kept between runs lies."""

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def home() -> Path:
    """The store's place: CIRQUE_HOME, else `.cirque` in the repository.

    Raises:
        ValueError: if it is on an object store, which has neither locks nor renames.
    """
    given = os.environ.get("CIRQUE_HOME", "").removeprefix("file://")
    if "://" in given:
        raise ValueError(
            f"CIRQUE_HOME={given} is no folder. The store needs locks that end with their process and renames of whole"
            " folders, which object stores do not have; give a folder on a file system that all workers see, and mirror"
            " finished artifacts with your object store's own tools (docs/operate.md)"
        )
    return Path(given or _ROOT / ".cirque").absolute()
