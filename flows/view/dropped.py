"""The tab of what was left out: rows by the stage and the reason, triplets that filters dropped as cards."""

from collections.abc import Awaitable, Callable

from nicegui import run

from flows.view.parts import IMAGES, World, busy, empty, picture, tag
from tasks.view_source import Reason

ROWS = 20


class Dropped:
    """A list of reasons, and the rows of the one that is chosen."""

    def __init__(self, world: World, cards: Callable[[str], Awaitable[None]]) -> None:
        """Draw the list; `cards` shows the triplets that the filters dropped for a reason."""
        self._world, self._cards = world, cards
        self._start = 0
        self._buttons = {}
        with tag("div", classes="reasons", role="group", aria_label="why rows were dropped"):
            for one in world.source.reasons:
                button = tag("button", classes="reason", type="button")
                with button:
                    tag("b", one.reason.replace("_", " "))
                    tag("span", f"{one.stage}, {one.count:,} rows", "soft")
                button.on("click", lambda one=one: self.show(one))
                self._buttons[one] = button
        self._box = tag("div")
        self.triplets = tag("div")
        self.triplets.set_visibility(False)
        if not world.source.reasons:
            with self._box:
                empty("Nothing was dropped on the way to these triplets.")

    async def show(self, reason: Reason, start: int = 0) -> None:
        """Show rows that were dropped for a reason."""
        for other, button in self._buttons.items():
            button.classes(**({"add": "selected"} if other == reason else {"remove": "selected"}))
        source = self._world.source
        as_cards = reason.stage == "filter" and source.dropped is not None
        self.triplets.set_visibility(as_cards)
        self._box.clear()
        if as_cards:
            await self._cards(reason.reason)
            return
        with self._box:
            busy("reading")
        rows = await run.io_bound(source.rejected, reason, start, ROWS) or []
        pairs = await run.io_bound(source.pairs, [row["row_id"] for row in rows]) or {}
        self._box.clear()
        with self._box:
            tag("h2", f"{reason.stage}: {reason.reason.replace('_', ' ')}")
            if not rows:
                empty(f"{reason.stage} keeps only the number of these rows: {reason.count:,}.")
                return
            tag("p", f"{start + 1:,} to {start + len(rows):,} of {reason.count:,}", "count", role="status")
            for row in rows:
                with tag("article", classes="lost"):
                    pair = pairs.get(row["row_id"])
                    for role in ("reference", "target") if pair else ():
                        picture(self._world, IMAGES, pair[f"{role}_id"] if pair else "", 96, role)
                    with tag("div"):
                        tag("code", row["row_id"])
                        tag("pre", row["detail"] or "nothing was noted", dir="auto")
            with tag("nav", classes="pages", aria_label="pages"):
                for label, at in (("← previous", start - ROWS), ("next →", start + ROWS)):
                    button = tag("button", label, "page-button", type="button")
                    if 0 <= at < reason.count:
                        button.on("click", lambda at=at: self.show(reason, at))
                    else:
                        button.props["disabled"] = True
