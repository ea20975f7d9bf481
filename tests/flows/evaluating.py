"""The command `evaluate`, as a user calls it."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from flows.__main__ import app

FOUR = "cirr,circo,fashioniq,genecis"


def run(home: Path, *words: Any) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was told beside it."""
    asked = ["evaluate", *map(str, words), "--device", "cpu"]
    result = CliRunner().invoke(app, asked, env={"CIRQUE_HOME": str(home)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
