"""The tab that estimates how good the triplets are: a random sample, judged by people, and what follows from it."""

from collections.abc import Awaitable, Callable

from nicegui import run, ui

from flows.view.parts import World, chart, facts, tag
from tasks.report_plots import Interval, intervals
from tasks.view_quality import Quality, quality
from tasks.view_table import Question


class QualityTab:
    """A form for the sample, and what is known of it so far."""

    def __init__(self, world: World, judge: Callable[[Question], Awaitable[None]]) -> None:
        """Draw the form; `judge` shows the triplets of a question."""
        self._world, self._judge = world, judge
        self._asked = 0
        tag("h2", "How many of the triplets are good?")
        tag(
            "p",
            "Judge a random sample: approve what a person could have written and would find the target with, reject"
            " the rest. The sample is drawn by its seed, so that everybody who takes the same numbers judges the same"
            " triplets.",
            "soft lead",
        )
        with tag("div", classes="toolbar"):
            most = world.source.kept.rows
            self._size = ui.number("Sample", value=min(100, most), min=1, max=most, precision=0)
            self._seed = ui.number("Seed", value=0, min=0, max=10**8, precision=0)
            for field in (self._size, self._seed):
                field.props("outlined dense").classes("size").on_value_change(self.show)
            ui.button("Judge what is left", on_click=lambda: self._go("unjudged")).props("unelevated no-caps")
            ui.button("Show the whole sample", on_click=lambda: self._go(None)).props("outline no-caps")
        self._box = tag("div", role="status", aria_live="polite")

    async def show(self) -> None:
        """Count anew."""
        self._asked += 1
        asked = self._asked
        found = await run.io_bound(quality, self._world.source, self._question())
        if found is None or asked != self._asked:  # other numbers were given meanwhile
            return
        self._box.clear()
        with self._box:
            _drawn(found)

    def _question(self, verdict: str | None = None) -> Question:
        return Question(sample=max(1, int(self._size.value or 1)), seed=int(self._seed.value or 0), verdict=verdict)

    async def _go(self, verdict: str | None) -> None:
        await self._judge(self._question(verdict))


def _drawn(found: Quality) -> None:
    tag("p", found.sentence(), "headline")
    facts(
        [
            ("sample", f"{found.sample:,} of {found.population:,}"),
            ("approved", f"{found.approved:,}"),
            ("rejected", f"{found.rejected:,}"),
            ("left to judge", f"{found.left:,}"),
        ]
    )
    if found.share is not None:
        row = Interval("good", 100 * found.share, 100 * found.low, 100 * found.high, 2)
        told = f"{row.value:.1f} percent, {row.low:.1f} to {row.high:.1f}."
        chart(intervals("Share of good triplets", told, "percent, with 95 % interval", [row]))
