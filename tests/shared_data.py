"""Real files to test against, which are no part of the repository."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


def shared_data(name: str) -> Path:
    """A folder of the test data: in $CIRQUE_TEST_DATA, else beside the repository. Without it the test is skipped."""
    folder = Path(os.environ.get("CIRQUE_TEST_DATA") or _ROOT / "../shared/data") / name
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set CIRQUE_TEST_DATA to the folder that holds {name}")
    return folder
