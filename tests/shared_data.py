"""Real files to test against, which are no part of the repository."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


def shared_data(name: str) -> Path:
    """A folder or file of the test data: in $CIRQUE_TEST_DATA, else beside the repository.

    Where the variable is set, what it promises must be there; without it and without the data the test is skipped.
    """
    promised = os.environ.get("CIRQUE_TEST_DATA")
    path = Path(promised or _ROOT / "../shared/data") / name
    if promised and not path.exists():
        pytest.fail(f"CIRQUE_TEST_DATA is {promised}, but there is no {path}")
    if not path.exists():
        pytest.skip(f"no test data at {path}; set CIRQUE_TEST_DATA to the folder that holds {name}")
    return path
