"""The page: its head, its tabs, and the keys."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from nicegui import ui
from nicegui.events import KeyEventArguments

from flows.view.address import Address
from flows.view.dropped import Dropped
from flows.view.gallery import Gallery
from flows.view.parts import World, tag
from flows.view.quality import QualityTab
from flows.view.statistic import draw_figures
from flows.view.trial import Trial
from flows.view.versus import Versus
from flows.view.words import show_keys
from tasks.view_columns import Condition
from tasks.view_table import Question

TABS = {
    "triplets": "Triplets",
    "statistics": "Statistics",
    "dropped": "Dropped",
    "quality": "Quality",
    "try": "Try it",
    "compare": "Compare",
}


class Page:
    """One browser tab's view of the world; nothing of it is shared with another."""

    def __init__(self, world: World, query: str) -> None:
        """Draw the frame, at the place that the address's query names."""
        self._world = world
        self._author = world.author
        address = Address.read(query)
        self._address = replace(address, tab=address.tab if address.tab in TABS else "triplets")
        self._galleries: dict[str, Gallery] = {}
        self._drawn: set[str] = set()
        self._sample: QualityTab | None = None
        ui.keyboard(self._key, ignore=["input", "select", "textarea"])
        ui.colors(primary="#0b5cad")
        ui.page_title(f"Cirque: {world.name}")
        self._head()
        self._tabs = {}
        with tag("nav", classes="tabs", role="tablist", aria_label="what to look at"):
            for name in TABS:
                button = tag("button", TABS[name], "tab", type="button", role="tab", id=f"tab-{name}")
                button.props["aria-controls"] = f"panel-{name}"
                button.on("click", lambda name=name: self._open(name))
                self._tabs[name] = button
        self._panels = {}
        with tag("div", classes="main", id="content"):
            for name in TABS:
                self._panels[name] = tag(
                    "div", classes="panel", role="tabpanel", id=f"panel-{name}", aria_labelledby=f"tab-{name}"
                )

    async def start(self) -> None:
        """Fill the tab that is open."""
        await self._open(self._address.tab)

    def _head(self) -> None:
        source = self._world.source
        with tag("header", classes="top"):
            tag("a", "Skip to the triplets", "skip", href="#content")
            with tag("div", classes="title"):
                tag("h1", "Cirque")
                tag("span", self._world.name, "name", dir="auto")
                tag(
                    "span", f"{source.kept.rows:,} triplets, {source.artifact.stage} {source.artifact.key[:12]}", "soft"
                )
            with tag("div", classes="who"):
                field = ui.input("Your name", value=self._author).props("dense outlined maxlength=60")
                field.on_value_change(lambda e: setattr(self, "_author", e.value or ""))
                ui.button("Keys", on_click=show_keys).props("flat no-caps")

    async def _open(self, name: str) -> None:
        """Show a tab; it is filled when it is first shown."""
        for other, button in self._tabs.items():
            button.props["aria-selected"] = "true" if other == name else "false"
            button.classes(**({"add": "selected"} if other == name else {"remove": "selected"}))
            self._panels[other].set_visibility(other == name)
        if name != self._address.tab:
            shown = self._galleries.get(name)
            self._moved(shown.address if shown is not None else Address(tab=name))
        if name in self._drawn:
            if name == "quality" and self._sample is not None:
                await self._sample.show()  # people judged meanwhile
            return
        self._drawn.add(name)
        makers: dict[str, Callable[[], Awaitable[None]]] = {
            "triplets": self._triplets,
            "statistics": lambda: draw_figures(self._world, self._narrow),
            "dropped": self._dropped,
            "quality": self._quality,
            "try": self._try,
            "compare": self._compare,
        }
        with self._panels[name]:
            await makers[name]()

    async def _triplets(self) -> None:
        await self._gallery("triplets", self._world.source.kept)

    async def _dropped(self) -> None:
        shown = Dropped(self._world, self._dropped_by)
        reasons = self._world.source.reasons
        asked = self._address.question.reason if self._address.tab == "dropped" else None
        with shown.triplets:
            if self._world.source.dropped is not None:
                await self._gallery("dropped", self._world.source.dropped)
        if reasons:
            await shown.show(next((one for one in reasons if one.reason == asked), reasons[0]))

    async def _dropped_by(self, reason: str) -> None:
        gallery = self._galleries["dropped"]
        if gallery.address.question.reason != reason:
            await gallery.ask(gallery.address.asking(reason=reason))

    async def _quality(self) -> None:
        self._sample = QualityTab(self._world, self._judge)
        await self._sample.show()

    async def _try(self) -> None:
        Trial(self._world)

    async def _compare(self) -> None:
        chosen = self._address.runs
        versus = Versus(self._world, chosen, lambda runs: self._moved(Address(tab="compare", runs=runs)))
        if all(chosen):
            await versus.show()

    async def _judge(self, question: Question) -> None:
        """Show a sample among the triplets."""
        await self._open("triplets")
        await self._galleries["triplets"].ask(Address(question=question))

    async def _narrow(self, column: str, value: str) -> None:
        """Show the triplets with a value."""
        await self._judge(Question(conditions=(Condition(column, "is", value),)))

    async def _gallery(self, name: str, table: Any) -> None:
        address = self._address if self._address.tab == name else Address(tab=name)
        gallery = Gallery(self._world, table, address, lambda: self._author, self._moved)
        gallery.detail.on_close = gallery.closed
        self._galleries[name] = gallery
        await gallery.show()

    def _moved(self, address: Address) -> None:
        self._address = address
        ui.navigate.history.replace(address.url())

    async def _key(self, event: KeyEventArguments) -> None:
        modifiers = event.modifiers
        if not event.action.keydown or modifiers.ctrl or modifiers.alt or modifiers.meta:
            return
        if event.key.name == "?":
            show_keys()
        gallery = self._galleries.get(self._address.tab)
        if gallery is not None:
            await gallery.key(event.key.name)
