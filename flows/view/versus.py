"""The tab that puts two runs side by side."""

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import run, ui

from data.images import BadImage
from flows.view.parts import IMAGES, World, busy, empty, facts, picture, table, tag, told
from tasks.runs import recorded_runs
from tasks.view_compare import Duel, Judged, Side, Texts, duel, duels, metric_rows, stage_rows
from tasks.view_images import Thumbnails

PAGE = 10
_ERRORS = (LookupError, OSError, ValueError, BadImage)
_OUTCOMES = {
    "only the left one": (True, False),
    "only the right one": (False, True),
    "both": (True, True),
    "neither": (False, False),
}


class Versus:
    """A form for the two runs, and what they differ in."""

    def __init__(self, world: World, chosen: tuple[str, str], moved: Callable[[tuple[str, str]], None]) -> None:
        """Draw the form.

        Args:
            world: where pictures come from.
            chosen: the runs, left and right; "" for the last two.
            moved: told of the runs that are compared.
        """
        self._world, self._moved = world, moved
        runs = recorded_runs()[::-1]
        left, right = chosen
        tag("h2", "Two runs side by side")
        if not runs:
            empty("No run is recorded in this store.")
            return
        with tag("div", classes="toolbar"):
            self._left = ui.select(runs, label="Left run", with_input=True)
            self._right = ui.select(runs, label="Right run", with_input=True)
            self._left.value = left if left in runs else runs[min(1, len(runs) - 1)]
            self._right.value = right if right in runs else runs[0]
            for field in (self._left, self._right):
                field.props("outlined dense").classes("run")
            ui.button("Compare", on_click=self.show).props("unelevated no-caps")
        self._box = tag("div")

    async def show(self) -> None:
        """Compare the runs of the form."""
        self._moved((self._left.value, self._right.value))
        self._box.clear()
        with self._box:
            busy("reading both runs")
        try:
            sides = await run.io_bound(lambda: (Side(self._left.value), Side(self._right.value)))
        except _ERRORS as error:
            self._box.clear()
            with self._box:
                tag("p", told(error), "problem", role="alert")
            return
        if sides is None:
            return
        left, right = sides
        self._box.clear()
        with self._box:
            stages = stage_rows(left, right)
            head: tuple[str, ...] = ("stage", "left: read", "kept", "written", "right: read", "kept", "written", "key")
            tag("h3", "Yields")
            table(f"rows of the stages: {left.name} and {right.name}", head, stages, range(1, 7))
            tag("h3", "Metrics")
            metrics = metric_rows(left, right)
            if metrics:
                head = ("benchmark", "metric", "method", "left", "right", "right minus left")
                table("percent, with 95 % interval", head, metrics, (3, 4, 5))
            else:
                empty("Neither run has scores.")
            await self._queries(left, right)
            await _texts(self._world, left, right)

    async def _queries(self, left: Side, right: Side) -> None:
        tag("h3", "Queries")
        choices = await run.io_bound(duels, left, right) or []
        if not choices:
            empty("The two runs have no benchmark and method in common.")
            return
        first = next((one for one in choices if one[1] == "composed"), choices[0])
        names = {one: f"{one[0]}, {one[1].replace('_', ' ')}" for one in choices}
        with tag("div", classes="toolbar"):
            which = ui.select(names, label="Benchmark and method", value=first).props("outlined dense").classes("run")
            k = ui.number("Found among the first", value=1, min=1, max=50, precision=0).props("outlined dense")
            found = ui.select(list(_OUTCOMES), label="Right in", value="only the right one").props("outlined dense")
            k.classes("pick")
            found.classes("pick")
        box = tag("div")

        async def draw(start: int = 0) -> None:
            box.clear()
            with box:
                busy("comparing answers")
            name, method = which.value
            try:
                fought = await run.io_bound(duel, left, right, name, method, max(1, int(k.value or 1)))
            except _ERRORS as error:
                fought, problem = None, told(error)
            box.clear()
            with box:
                if fought is None:
                    tag("p", problem, "problem", role="alert")
                else:
                    self._duel(fought, _OUTCOMES[found.value], start, draw)

        for field in (which, k, found):
            field.on_value_change(lambda: draw())
        await draw()

    def _duel(
        self, fought: Duel, found: tuple[bool, bool], start: int, again: Callable[[int], Awaitable[None]]
    ) -> None:
        benchmark = fought.benchmark
        of = f"benchmark-{benchmark.name}-{benchmark.split}"
        self._world.pictures.setdefault(of, Thumbnails(benchmark.load_image))
        counts = [(name, f"{len(fought.some(both)):,}") for name, both in _OUTCOMES.items()]
        facts([("queries", f"{len(fought.queries):,}"), *counts, ("p of no difference", f"{fought.p:.4f}")])
        some = fought.some(found)
        if not some:
            empty("No query was answered so.")
            return
        tag("p", f"{start + 1:,} to {min(start + PAGE, len(some)):,} of {len(some):,}", "count", role="status")
        for one in some[start : start + PAGE]:
            self._query(one, of)
        _pages(start, len(some), again)

    def _query(self, one: Judged, of: str) -> None:
        query = one.query
        with tag("article", classes="query", aria_label=f"query {query.query_id}"):
            with tag("div", classes="asked-for"):
                picture(self._world, of, query.reference_id, 96, "reference")
                tag("p", query.modification, "modification", dir="auto")
                tag("span", "→", "arrow", aria_hidden="true")
                picture(self._world, of, query.targets[0], 96, "target")
            for name, right, top in zip(("left", "right"), one.found, one.top, strict=True):
                with tag("div", classes="answers"):
                    verdict = ("✓ found", "approved") if right else ("✗ not found", "rejected")
                    tag("span", f"{name} {verdict[0]}", f"chip {verdict[1]}")
                    for rank, image_id in enumerate(top, 1):
                        hit = image_id in query.targets
                        with tag("div", classes="answer-image target" if hit else "answer-image"):
                            picture(self._world, of, image_id, 96, f"{name}, rank {rank}{', a target' if hit else ''}")


async def _texts(world: World, left: Side, right: Side) -> None:
    tag("h3", "Texts about the same references")
    box = tag("div")
    try:
        found = await run.io_bound(Texts, left, right)
    except _ERRORS as error:
        with box:
            tag("p", told(error), "empty")
        return
    if found is None:
        return
    texts = found

    async def draw(start: int = 0) -> None:
        rows = await run.io_bound(texts.page, start, PAGE) or []
        box.clear()
        with box:
            if not rows:
                empty("The two runs have no reference in common.")
                return
            tag("p", f"{start + 1:,} to {start + len(rows):,} of {texts.shared:,} references", "count", role="status")
            for reference, *sides in rows:
                with tag("article", classes="versus"):
                    picture(world, IMAGES, reference, 96, "reference")
                    for name, side in zip(("left", "right"), sides, strict=True):
                        with tag("div", classes="side", role="group", aria_label=name):
                            for row in side:
                                _text(world, row)
            _pages(start, texts.shared, draw)

    await draw()


def _text(world: World, row: dict[str, Any]) -> None:
    with tag("div", classes="said"):
        if row["target_id"] is not None:
            picture(world, IMAGES, row["target_id"], 96, "target")
        with tag("div"):
            tag("p", row["modification"], "modification", dir="auto")
            if row["target_text"] is not None:
                tag("p", row["target_text"], "target-text", dir="auto")
            if row["rank"] is not None:
                tag("span", f"rank {row['rank']}, {row['score']:.3f}", "soft")


def _pages(start: int, total: int, go: Callable[[int], Awaitable[None]]) -> None:
    with tag("nav", classes="pages", aria_label="pages"):
        for label, at in (("← previous", start - PAGE), ("next →", start + PAGE)):
            button = tag("button", label, "page-button", type="button")
            if 0 <= at < total:
                button.on("click", lambda at=at: go(at))
            else:
                button.props["disabled"] = True
