"""What holds for all tests: they leave the user's store alone and report to nobody."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that is shared. Outside CI Hypothesis would fail a test for it.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_store() -> Iterator[None]:
    """A store for this session; tests that look into it take one of their own."""
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="cirque-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIRQUE_HOME", os.path.join(folder, "store"))
        for name, value in quiet.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server for the tests that need a flow; all of them are slow. Everything else does without."""
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
