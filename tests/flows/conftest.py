"""One Prefect server for the tests that need a flow; all of them are slow. Everything else does without."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty CIRQUE_HOME of the test's own."""
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "cirque"))
    return tmp_path / "cirque"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_SERVER_LEVEL,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    # The server prints tracebacks when it is stopped while it still writes events; nobody waits for those.
    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_SERVER_LEVEL: "CRITICAL"}
    with temporary_settings(quiet), prefect_test_harness(server_startup_timeout=180):
        yield
