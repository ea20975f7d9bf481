"""The tab of figures: what the triplets are made of, and what became of the rows that are not among them."""

from collections.abc import Awaitable, Callable

from nicegui import run

from flows.view.parts import IMAGES, World, bar_rows, busy, chart, facts, picture, table, tag
from tasks.view_figures import figures


async def draw_figures(world: World, narrow: Callable[[str, str], Awaitable[None]]) -> None:
    """Fill the tab; `narrow` shows the triplets with a value of a column."""
    box = tag("div")
    with box:
        busy("looking through all triplets")
    found = await run.io_bound(figures, world.source.kept)
    if found is None:
        return
    box.clear()
    with box:
        tag("h2", "What the triplets are made of")
        facts(found.facts)
        with tag("div", classes="grid2"):
            for drawn in found.charts:
                chart(drawn)
        with tag("div", classes="grid2"):
            for column, counted in found.kinds.items():
                with tag("div"):

                    async def show(value: str, column: str = column) -> None:
                        await narrow(column, value)

                    bar_rows(column.replace("_", " ").replace("provenance.", ""), counted, show)
            with tag("div"):
                bar_rows("most frequent words of the modifications", found.words)
            with tag("div"):
                rows = [(f"{one.stage}: {one.reason}", one.count) for one in world.source.reasons]
                if rows:
                    bar_rows("rows that were dropped on the way, by stage and reason", rows)
                stages = [
                    (one.stage, f"{one.counts.read:,}", f"{one.counts.kept:,}", f"{one.counts.written:,}")
                    for one in world.source.line
                ]
                table("rows of the stages", ("stage", "read", "kept", "written"), stages, (1, 2, 3))
        tag("h3", "Images that are a target most often")
        with tag("div", classes="strip", tabindex="0", role="region", aria_label="most frequent targets"):
            for image_id, times in found.targets:
                with tag("figure", classes="neighbour"):
                    picture(world, IMAGES, image_id, 96, f"target of {times} triplets")
                    with tag("figcaption"):

                        async def of(image: str = image_id) -> None:
                            await narrow("target_id", image)

                        tag("button", f"{times:,} times", "link", type="button").on("click", of)
