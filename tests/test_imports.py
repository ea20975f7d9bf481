"""Imports point down: flows -> tasks -> models -> data; prompts is a leaf. Found by parsing, not by importing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"bench", "data", "flows", "models", "prompts", "tasks", "tests"}
MAY_IMPORT = {
    "data": {"data"},
    "prompts": {"prompts"},
    "models": {"models", "data"},
    "tasks": {"tasks", "models", "data", "prompts"},
    "flows": {"flows", "tasks", "data", "prompts"},
}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported_packages(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, also those within functions; a relative one is "."."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." if node.level else str(node.module).partition(".")[0]


def offences(package: str, source: str) -> list[str]:
    found = imported_packages(source)
    allowed = MAY_IMPORT[package]
    return [f"line {line}: {name}" for line, name in found if name == "." or (name in OURS and name not in allowed)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert offences(package, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("package", "source", "line"),
    [
        ("data", "import pyarrow\nfrom tasks import store", "line 2: tasks"),
        ("models", "import tasks.stage", "line 1: tasks"),
        ("flows", "def f():\n    from models.encoders import load_encoder", "line 2: models"),
        ("prompts", "from data.keys import digest", "line 1: data"),
        ("tasks", "from .stage import stage", "line 1: ."),
    ],
)
def test_offences_are_found(package: str, source: str, line: str) -> None:
    assert offences(package, source) == [line]


def test_every_package_has_an_init_file() -> None:
    """Without it an installed package of the same name, such as `data`, would win."""
    folders = {path.parent for path in FILES} | {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_module_hides_a_standard_one() -> None:
    import sys

    assert [str(path) for path in FILES if path.stem in sys.stdlib_module_names] == []


def test_only_the_stage_decorator_what_serves_it_and_the_flows_know_prefect() -> None:
    knowing = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name == "prefect" for _, name in imported_packages(path.read_text(encoding="utf-8")))
    }
    assert {path for path in knowing if not path.startswith("flows/")} == {
        "tasks/stage.py", "tasks/shown.py", "tasks/shards.py",
    }  # fmt: skip
