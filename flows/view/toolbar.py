"""What is asked of the triplets: search, filters on every column, order, what people said."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from nicegui import run, ui

from flows.view.address import PAGE_SIZES, VERDICTS, Address
from flows.view.parts import World, tag, told, wrong
from tasks.view_columns import OPERATORS, UNARY, Condition, checked
from tasks.view_table import TripletTable

_SUGGESTED = 50
_SUGGESTING = ("edit_type", "style", "view", "recipe", "provenance.model")
"""Columns with few values, which are offered."""


class Toolbar:
    """The fields above the triplets; each change is handed to `ask` as an address."""

    def __init__(
        self,
        world: World,
        table: TripletTable,
        address: Callable[[], Address],
        ask: Callable[[Address], Awaitable[None]],
    ) -> None:
        """Draw the fields, as `address` says."""
        self._world, self._table, self._address, self._ask = world, table, address, ask
        self._quiet = False  # while fields are set to what the address says
        asked = address().question
        with tag("div", classes="toolbar", role="search"):
            self._search = ui.input("Search the texts", value=asked.search).props(
                'outlined dense clearable debounce="350"'
            )
            self._search.classes("search").on_value_change(lambda e: self._set(search=(e.value or "").strip()))
            judged = {"": "any verdict", **{name: name for name in VERDICTS}}
            if table is world.source.kept:
                self._verdict = self._select("Verdict", judged, asked.verdict or "", "verdict")
            orders = {"": "order of the file", **{name: name for name in table.columns}}
            self._select("Sort by", orders, asked.sort or "", "sort", with_input=True)
            down = ui.checkbox("largest first", value=asked.descending)
            down.on_value_change(lambda e: self._set(descending=bool(e.value)))
            size = ui.select(list(PAGE_SIZES), label="Per page", value=address().size).props("outlined dense")
            size.classes("size").on_value_change(lambda e: self._go(replace(self._address(), size=e.value, page=1)))
            ui.button("Filter", on_click=self._add).props("outline no-caps").classes("add")
        self._chips = tag("div", classes="chips conditions")

    def draw(self) -> None:
        """Show the conditions of the address, each with a way to take it away."""
        asked = self._address().question
        self._quiet = True
        self._search.value = asked.search
        self._quiet = False
        self._chips.clear()
        with self._chips:
            for one in asked.conditions:
                rest = tuple(other for other in asked.conditions if other != one)
                self._removable(str(one), conditions=rest)
            if asked.tag is not None:
                self._removable(f"tag {asked.tag}", tag=None)
            if asked.sample is not None:
                self._removable(f"random sample of {asked.sample:,}, seed {asked.seed}", sample=None)

    def focus(self) -> None:
        """Put the cursor into the search field."""
        self._search.run_method("focus")

    def _select(self, label: str, options: dict[str, str], value: str, name: str, with_input: bool = False) -> Any:
        field = ui.select(options, label=label, value=value if value in options else "", with_input=with_input)
        field.props("outlined dense").classes(f"pick {name}")
        field.on_value_change(lambda e: self._set(**{name: e.value or None}))
        return field

    def _removable(self, text: str, **without: Any) -> None:
        button = tag("button", f"{text} ✕", "chip condition", type="button", title="take this filter away")
        button.on("click", lambda: self._set(**without))

    async def _set(self, **changes: Any) -> None:
        if not self._quiet:
            await self._go(self._address().asking(**changes))

    async def _go(self, address: Address) -> None:
        if address != self._address():
            await self._ask(address)

    async def _add(self) -> None:
        """Ask for a condition on any column."""
        with ui.dialog() as dialog, ui.card().classes("asking"):
            tag("h2", "Filter")
            column = ui.select(list(self._table.columns), label="Column", value="modification", with_input=True)
            operator = ui.select([], label="Condition").props("outlined")
            value = ui.input("Value").props("outlined autofocus")
            column.props("outlined").classes("filter-column")
            problem = tag("p", "", "problem", role="alert")

            async def chosen() -> None:
                kind = self._table.columns[column.value].kind
                operator.set_options(list(OPERATORS[kind]), value=OPERATORS[kind][0])
                known = []
                if column.value in _SUGGESTING:
                    found = await run.io_bound(self._table.common, column.value, _SUGGESTED)
                    known = [text for text, _ in found or []]
                    operator.value = "is"
                value.set_autocomplete(known)

            def save() -> None:
                kind = self._table.columns[column.value].kind
                try:
                    made = checked(Condition(column.value, operator.value, (value.value or "").strip()), kind)
                    if made.operator not in UNARY and not made.value:
                        raise ValueError("give a value to compare with")
                except ValueError as error:
                    problem._text = told(error)
                    problem.update()
                else:
                    dialog.submit(made)

            column.on_value_change(chosen)
            value.on("keydown.enter.prevent", save)
            with tag("div", classes="buttons"):
                ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
                ui.button("Apply", on_click=save).props("unelevated no-caps")
            await chosen()
        made = await dialog
        dialog.delete()
        if made is not None:
            asked = self._address().question
            if made in asked.conditions:
                wrong("this filter is there already")
                return
            await self._set(conditions=(*asked.conditions, made))
