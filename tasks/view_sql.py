"""DuckDB over Parquet files: a bounded share of memory, no file beside them, and nothing fetched from anywhere."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

MEMORY = "512MB"


def connect(memory: str = MEMORY, threads: int = 2) -> duckdb.DuckDBPyConnection:
    """An empty database in memory; each thread takes a cursor of it."""
    return duckdb.connect(
        config={
            "memory_limit": memory,
            "threads": threads,
            "temp_directory": tempfile.gettempdir(),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def rows_of(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = (), **tables: pa.Table
) -> list[dict[str, Any]]:
    """The rows of a query by a cursor of their own; `tables` are there by their names."""
    with connection.cursor() as cursor:
        for name, table in tables.items():
            cursor.register(name, table)
        found = cursor.execute(sql, list(values))
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def parquet(path: Path, more: str = "") -> str:
    """A Parquet file as SQL reads it, whatever its path is made of; `more` are further arguments."""
    plain = re.sub(r"([*?\[])", r"[\1]", str(path))
    return f"read_parquet({quoted(plain)}{more})"


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
