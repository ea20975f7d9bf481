"""What a page shows, as its address: a link opens the same again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

from tasks.view_columns import OPERATORS, Condition
from tasks.view_table import Question

PAGE_SIZES = (12, 24, 48)
VERDICTS = ("approved", "rejected", "judged", "unjudged")
_BETWEEN = "|"  # of column, operator and value; a value may have it, the others do not


@dataclass(frozen=True)
class Address:
    """A place on the page.

    Attributes:
        tab: which tab.
        question: which triplets.
        page: from 1.
        size: triplets of a page.
        shown: id of the triplet whose details are open, if any.
        runs: the two that are compared, left and right; empty for the last two.
    """

    tab: str = "triplets"
    question: Question = field(default_factory=Question)
    page: int = 1
    size: int = 24
    shown: str | None = None
    runs: tuple[str, str] = ("", "")

    def url(self) -> str:
        """The address; what is as usual is not in it."""
        asked, usual = self.question, Address()
        parts: list[tuple[str, str]] = []

        def add(name: str, value: object, default: object) -> None:
            if value != default:
                parts.append((name, str(value)))

        add("tab", self.tab, usual.tab)
        add("q", asked.search, "")
        parts += [("where", _BETWEEN.join((one.column, one.operator, one.value))) for one in asked.conditions]
        add("sort", asked.sort, None)
        add("down", int(asked.descending), 0)
        for name in ("verdict", "tag", "sample", "reason"):
            add(name, getattr(asked, name), None)
        add("seed", asked.seed, 0)
        add("page", self.page, usual.page)
        add("size", self.size, usual.size)
        add("open", self.shown, None)
        add("left", self.runs[0], "")
        add("right", self.runs[1], "")
        return "/?" + urlencode(parts) if parts else "/"

    @staticmethod
    def read(query: str) -> "Address":
        """The address in a URL's query; what makes no sense is left out."""
        found = parse_qs(query)
        first = {name: values[0] for name, values in found.items()}
        conditions = tuple(one for text in found.get("where", []) if (one := _condition(text)) is not None)
        sample = _whole(first, "sample", 0)
        verdict = first.get("verdict")
        question = Question(
            search=first.get("q", ""),
            conditions=conditions,
            sort=first.get("sort"),
            descending=first.get("down") == "1",
            verdict=verdict if verdict in VERDICTS else None,
            tag=first.get("tag"),
            sample=sample or None,
            seed=_whole(first, "seed", 0),
            reason=first.get("reason"),
        )
        size = _whole(first, "size", 24)
        return Address(
            tab=first.get("tab", "triplets"),
            question=question,
            page=max(1, _whole(first, "page", 1)),
            size=size if size in PAGE_SIZES else 24,
            shown=first.get("open"),
            runs=(first.get("left", ""), first.get("right", "")),
        )

    def asking(self, **changes: Any) -> "Address":
        """The first page of a changed question."""
        return replace(self, question=replace(self.question, **changes), page=1, shown=None)


def _condition(text: str) -> Condition | None:
    column, _, rest = text.partition(_BETWEEN)
    word, _, value = rest.partition(_BETWEEN)
    known = {operator: operator for operators in OPERATORS.values() for operator in operators}
    operator = known.get(word)  # type: ignore[call-overload]
    return None if operator is None else Condition(column, operator, value)


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default
