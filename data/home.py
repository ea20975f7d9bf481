"""Where everything that is kept between runs lies."""

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def home() -> Path:
    """The store's place: CIRQUE_HOME, else `.cirque` in the repository."""
    return Path(os.environ.get("CIRQUE_HOME") or _ROOT / ".cirque").absolute()
