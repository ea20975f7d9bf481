"""The columns of a triplet that somebody may filter and sort by, and conditions on them as SQL."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from data.schemas import TRIPLETS
from data.suggest import did_you_mean

Kind = Literal["text", "number"]
Operator = Literal["is", "is not", "contains", "at least", "at most", "is empty", "is not empty"]

OPERATORS: dict[Kind, tuple[Operator, ...]] = {
    "text": ("contains", "is", "is not", "is empty", "is not empty"),
    "number": ("at least", "at most", "is", "is not", "is empty", "is not empty"),
}
UNARY = ("is empty", "is not empty")
FILTERED = "filter: "
"""How a column with the value that a filter gave begins."""
TEXTS = ("modification", "target_text", "reference_caption", "target_caption")
"""Where the full-text search looks."""

_COMPARED = {"at least": "{} >= ?", "at most": "{} <= ?", "is": "{} = ?", "is not": "{} IS DISTINCT FROM ?"}


@dataclass(frozen=True)
class Column:
    """A column: what it holds and, over the rows `t` of a table of triplets, how SQL names it."""

    kind: Kind
    sql: str


@dataclass(frozen=True)
class Condition:
    """A triplet is wanted if this holds; `value` is not read by the operators in `UNARY`."""

    column: str
    operator: Operator
    value: str = ""

    def __str__(self) -> str:
        return f"{self.column} {self.operator}" + ("" if self.operator in UNARY else f" {self.value}")


def _columns() -> dict[str, Column]:
    found = {}
    for field in TRIPLETS:
        if pa.types.is_struct(field.type):
            parts = {f"{field.name}.{one.name}": (f't."{field.name}"."{one.name}"', one.type) for one in field.type}
        else:
            parts = {field.name: (f't."{field.name}"', field.type)}
        for name, (sql, kind) in parts.items():
            if pa.types.is_list(kind):
                found[name] = Column("text", f"array_to_string({sql}, ' ')")
            else:
                found[name] = Column("text" if pa.types.is_string(kind) else "number", sql)
    words = "len(regexp_split_to_array(trim(t.modification), '\\s+'))"
    return {**found, "words": Column("number", words)}


COLUMNS = _columns()
"""Columns of the table itself, and `words`, the length of the modification."""


def checked(condition: Condition, kind: Kind) -> Condition:
    """The condition, if it makes sense on a column of this kind.

    Raises:
        ValueError: if the operator does not belong to the kind, or the value is no number where one is due.
    """
    if condition.operator not in OPERATORS[kind]:
        raise ValueError(
            f"{condition.column} holds {kind}s; expected one of {', '.join(OPERATORS[kind])},"
            f" found {condition.operator!r}"
        )
    if kind == "number" and condition.operator not in UNARY:
        try:
            float(condition.value)
        except ValueError:
            raise ValueError(
                f"{condition.column} is a number; {condition.value!r} is none, such as 55 or 0.8"
            ) from None
    return condition


def as_sql(condition: Condition, column: Column) -> tuple[str, list[Any]]:
    """The condition over rows `t`, and the values of its question marks; errors as of `checked`."""
    checked(condition, column.kind)
    if condition.operator in UNARY:
        empty = f"{column.sql} IS NULL" + (f" OR {column.sql} = ''" if column.kind == "text" else "")
        return (f"({empty})" if condition.operator == "is empty" else f"NOT ({empty})"), []
    if condition.operator == "contains":
        return f"contains(lower({column.sql}), ?)", [condition.value.lower()]
    if column.kind == "text":
        return _COMPARED[condition.operator].format(column.sql), [condition.value]
    # A score is stored with 24 bits: what is shown as 0.8 would not equal the 0.8 of 53 bits.
    test = _COMPARED[condition.operator].replace("?", "CAST(? AS FLOAT)")
    return test.format(f"CAST({column.sql} AS FLOAT)"), [float(condition.value)]


def searched(text: str) -> tuple[list[str], list[Any]]:
    """Conditions for a full-text search: every word, or part in double quotes, is somewhere in the texts."""
    parts = [quoted or word for quoted, word in re.findall(r'"([^"]+)"|([^\s"]+)', text.lower())]
    joined = f"lower(concat_ws(chr(10), {', '.join(f't.{name}' for name in TEXTS)}))"
    return [f"contains({joined}, ?)" for _ in parts], list(parts)


def find_column(name: str, known: dict[str, Column]) -> Column:
    """A column by its name; a LookupError suggests the nearest."""
    if name not in known:
        raise LookupError(f"triplets have no column {name!r};{did_you_mean(name, list(known))}")
    return known[name]
