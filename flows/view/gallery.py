"""The tab with the triplets themselves: asked for, paged through, judged by mouse or keyboard."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nicegui import run, ui
from nicegui.element import Element

from flows.view.address import Address
from flows.view.cards import Card, Known, draw_card, write_words
from flows.view.detail import Detail
from flows.view.parts import World, empty, tag, told, wrong
from flows.view.toolbar import Toolbar
from flows.view.words import ask_tag, ask_text
from tasks.curation import EDITED, Action
from tasks.view_table import Numbers, Row, TripletTable


class Gallery:
    """Cards of one page of triplets, and what is open of them.

    Attributes:
        address: what is shown.
        author: tells whose verdicts are written down.
    """

    def __init__(
        self,
        world: World,
        table: TripletTable,
        address: Address,
        author: Callable[[], str],
        moved: Callable[[Address], None],
    ) -> None:
        """Draw the tab; `moved` is told whenever something else is shown."""
        self.world, self.table, self.address, self.author = world, table, address, author
        self._moved = moved
        self._numbers: Numbers | None = None
        self._cards: list[Card] = []
        self._at = 0
        self._asked = 0
        self._said_here = False  # whether a verdict was given since the page was drawn
        with tag("section", classes="gallery", aria_label="triplets"):
            self.toolbar = Toolbar(world, table, lambda: self.address, self.ask)
            self._count = tag("p", "", "count", role="status", aria_live="polite")
            self._grid = tag("div", classes="cards")
            self._foot = tag("nav", classes="pages", aria_label="pages")
        self.detail = Detail(world, self.act, self.step)

    @property
    def judging(self) -> bool:
        """Whether these triplets can be judged: those that were dropped cannot."""
        return self.table is self.world.source.kept

    async def show(self) -> None:
        """Show what the address says."""
        self._asked += 1
        asked = self._asked
        self.toolbar.draw()
        try:
            numbers, shown = await _io(self._fetch, self.address)
        except (LookupError, ValueError) as error:
            wrong(told(error))
            numbers, shown = None, []
        if asked != self._asked:  # something else was asked for meanwhile
            return
        self._numbers = numbers
        self._at = 0
        self._draw(shown)
        self._moved(self.address)
        if self.address.shown is not None:
            row = await _io(self.table.find, self.address.shown)
            if row is None:
                wrong(f"there is no triplet {self.address.shown} here")
            else:
                await self.detail.open(row, self.judging)

    def _fetch(self, address: Address) -> tuple[Numbers, list[tuple[Row, Known]]]:
        numbers = self.table.select(address.question)
        last = max(1, -(-len(numbers) // address.size))
        if address.page > last:
            self.address = replace(self.address, page=last)
        start = (min(address.page, last) - 1) * address.size
        rows = self.table.page(numbers[start : start + address.size])
        ids = [row["triplet_id"] for row in rows]
        why, verdicts, prompts = self.table.why(ids), self.table.verdicts(ids), self.world.source.prompts
        return numbers, [
            (
                row,
                Known(
                    prompts.get(row["provenance"]["prompt_digest"]),
                    verdicts.get(row["triplet_id"], []),
                    why[row["triplet_id"]]["detail"] if row["triplet_id"] in why else "",
                ),
            )
            for row in rows
        ]

    def _draw(self, rows: list[tuple[Row, Known]]) -> None:
        self._said_here = False
        total = 0 if self._numbers is None else len(self._numbers)
        pages = max(1, -(-total // self.address.size))
        start = (self.address.page - 1) * self.address.size
        shown = f"{start + 1:,} to {start + len(rows):,} of " if rows else ""
        of = "" if total == self.table.rows else f" (of {self.table.rows:,} in all)"
        self._count._text = f"{shown}{total:,} triplet{'' if total == 1 else 's'}{of}"
        self._count.update()
        self._grid.clear()
        with self._grid:
            self._cards = [
                draw_card(self.world, row, known, place, self.act, self.focus)
                for place, (row, known) in enumerate(rows)
            ]
            if not rows:
                empty("No triplet is like that. Take a filter away, or search for less.")
        if self._cards:
            self._cards[0].box.classes("current")
        self._foot.clear()
        with self._foot:
            _button("← previous", self.address.page > 1, lambda: self.turn(-1))
            tag("span", f"page {self.address.page:,} of {pages:,}")
            _button("next →", self.address.page < pages, lambda: self.turn(1))
            jump = ui.number("go to page", min=1, max=pages, precision=0).props("dense outlined").classes("jump")
            jump.on("keydown.enter", lambda: self.turn(int(jump.value or 1) - self.address.page))

    async def ask(self, address: Address) -> None:
        """Show something else."""
        self.address = address
        await self.show()

    async def turn(self, pages: int) -> None:
        """Go some pages on, or back."""
        if pages > 0 and self._said_here and self.address.question.verdict == "unjudged":
            # Those judged are gone from the question: what comes next has moved up to this page
            await self.ask(replace(self.address, shown=None))
            return
        total = 0 if self._numbers is None else len(self._numbers)
        last = max(1, -(-total // self.address.size))
        page = min(last, max(1, self.address.page + pages))
        if page != self.address.page:
            await self.ask(replace(self.address, page=page, shown=None))
            ui.run_javascript("window.scrollTo({top: 0})")

    def focus(self, place: int) -> None:
        """Make a card the current one."""
        if self._at < len(self._cards):
            self._cards[self._at].box.classes(remove="current")
        self._at = place
        self._cards[place].box.classes("current")

    async def step(self, by: int) -> None:
        """Go to the next card, or the one before; over the end of the page to the next page."""
        place = self._at + by
        if not 0 <= place < len(self._cards):
            cards = self._cards
            was_open = self.detail.opened
            await self.turn(1 if by > 0 else -1)
            if not self._cards or self._cards is cards:
                return
            place = 0 if by > 0 else len(self._cards) - 1
            if was_open:
                self.detail.opened = True
        self.focus(place)
        ui.run_javascript(f"getElement({self._cards[place].box.id}).focus()")
        if self.detail.opened:
            await self._open(self._cards[place])

    async def key(self, key: str) -> None:
        """A key was pressed outside of a field."""
        actions = {"a": "approve", "r": "reject", "u": "clear", "e": "edit", "w": "edit_target", "t": "tag"}
        if key in ("j", "ArrowRight"):
            await self.step(1)
        elif key in ("k", "ArrowLeft"):
            await self.step(-1)
        elif key in ("n", "p") and not self.detail.opened:
            await self.turn(1 if key == "n" else -1)
        elif key == "/":
            self.toolbar.focus()
        elif key in actions and self._cards:
            await self.act(self._at, actions[key])

    async def act(self, place: int | None, action: str) -> None:
        """Do something with a card of this page, or with the triplet whose details are open."""
        if place is not None and not self.detail.opened:
            self.focus(place)
        card = self._cards[self._at]
        row = self.detail.row if self.detail.opened and self.detail.row is not None else card.row
        if action == "open":
            await self._open(card)
        elif not self.judging:
            wrong("these triplets were dropped; only kept ones are judged")
        elif action in ("approve", "reject"):
            await self._say(row, action, "")
            await self.step(1)
        elif action in EDITED:
            column = EDITED[action]
            edited = self.world.source.curation.opinion(row).edits.get(column)
            if row[column] is None:
                wrong("this triplet has no target text")
            elif (text := await ask_text(column.replace("_", " "), row[column], edited)) is not None:
                await self._say(row, action, text)
        elif action == "tag":
            change = await ask_tag(self.world.source.curation.opinion(row).tags)
            if change is not None:
                await self._say(row, *change)
        else:
            await self._say(row, "clear", "")

    async def _say(self, row: Row, action: Any, value: str) -> None:
        said: Action = action
        try:
            opinion = await _io(self.world.source.curation.say, row, self.author(), said, value)
        except (OSError, ValueError) as error:
            wrong(told(error))
            return
        self._said_here = True
        for card in self._cards:
            if card.row["triplet_id"] == row["triplet_id"]:
                write_words(card, opinion)
        self.detail.heard(row, opinion)

    async def _open(self, card: Card) -> None:
        self.address = replace(self.address, shown=card.row["triplet_id"])
        self._moved(self.address)
        await self.detail.open(card.row, self.judging)

    def closed(self) -> None:
        """The details were closed."""
        self.address = replace(self.address, shown=None)
        self._moved(self.address)


async def _io(work: Callable[..., Any], *arguments: Any) -> Any:
    return await run.io_bound(work, *arguments)


def _button(text: str, useful: bool, click: Callable[[], Any]) -> Element:
    button = tag("button", text, "page-button", type="button")
    if useful:
        button.on("click", click)
    else:
        button.props["disabled"] = True
    return button
