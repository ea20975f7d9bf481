"""Pieces that every tab is made of. Texts become text, whatever is written in them: never markup, never script."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from nicegui import run, ui
from nicegui.element import Element

from tasks.curation import Opinion
from tasks.view_images import Thumbnails
from tasks.view_source import Source

IMAGES = "images"
"""Under this name the pictures of the triplets are served."""
_EDITED = {"modification": "edited", "target_text": "target edited"}


@dataclass
class World:
    """What all pages of a server look at.

    Attributes:
        source: the triplets.
        name: what was asked to be opened, in words.
        author: who judges, unless a page says otherwise.
        pictures: everything that pictures are served from, by name.
        checkpoint, gallery: what Try it begins with.
    """

    source: Source
    name: str
    author: str
    pictures: dict[str, Thumbnails] = field(default_factory=dict)
    checkpoint: str | None = None
    gallery: str | None = None


def tag(name: str, text: str | None = None, classes: str = "", **attributes: str) -> Element:
    """An HTML element with a text; underscores in the names of attributes stand for hyphens."""
    made = Element(name)
    made._text = text
    made.classes(classes)
    made.props.update({key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()})
    return made


def picture(world: World, of: str, image_id: str, side: int, role: str) -> Element:
    """A picture in a box of its own; where it cannot be shown the box says why.

    Args:
        world: where pictures come from.
        of: which of its `pictures`.
        image_id: the image.
        side: one of `tasks.view_images.SIDES`.
        role: what it is, for those who do not see it: "reference", "target", "rank 3".
    """
    with tag("div", classes=f"picture side-{side}") as box:
        address = "/picture?" + urlencode({"of": of, "id": image_id, "side": side})
        shown = tag("img", src=address, alt=f"{role}: image {image_id}", loading="lazy", title=image_id)

        async def gone() -> None:
            found = await run.io_bound(world.pictures[of].get, image_id, side)
            problem = found.problem if found is not None and found.problem else "the picture did not come"
            box.clear()
            with box:
                tag("div", f"{image_id}: {problem}", "gone", role="img", aria_label=f"{role}: {image_id}: {problem}")

        shown.on("error", gone)
    return box


def chip(text: str, classes: str = "", title: str = "") -> Element:
    """A word in a box."""
    made = tag("span", text, f"chip {classes}")
    if title:
        made.props["title"] = title
    return made


def words(row: Mapping[str, Any], name: str, opinion: Opinion, classes: str) -> None:
    """A text of a triplet in the words that people gave it, and what it was before."""
    tag("p", opinion.edits.get(name, row[name]), classes, dir="auto")
    if name in opinion.edits:
        tag("p", f"was: {row[name]}", "was", dir="auto")


def opinion_chips(opinion: Opinion) -> None:
    """What people said of a triplet."""
    if opinion.verdict is not None:
        said = [one for one in opinion.history if one.action in ("approve", "reject", "clear")][-1]
        mark = {"approved": "✓ ", "rejected": "✗ "}[opinion.verdict]
        chip(mark + opinion.verdict, opinion.verdict, f"by {said.author}, {said.time}")
    for name in sorted(opinion.edits):
        chip(_EDITED[name], "edited")
    for word in sorted(opinion.tags):
        chip(f"# {word}", "tagged")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> Element:
    """A table of texts; `numbers` are the columns that are aligned to the right."""
    with tag("div", classes="wide", tabindex="0", role="region", aria_label=caption) as box, tag("table"):
        tag("caption", caption)
        with tag("thead"), tag("tr"):
            for place, name in enumerate(head):
                tag("th", name, "n" if place in numbers else "", scope="col")
        with tag("tbody"):
            for row in rows:
                with tag("tr"):
                    for place, value in enumerate(row):
                        tag("td", str(value), "n" if place in numbers else "")
    return box


def facts(pairs: Iterable[tuple[str, object]]) -> Element:
    """Names and values."""
    with tag("dl", classes="facts") as box:
        for name, value in pairs:
            with tag("div"):
                tag("dt", name)
                tag("dd", str(value), dir="auto")
    return box


def bar_rows(caption: str, counted: Sequence[tuple[str, int]], open_row: Callable[[str], object] | None = None) -> None:
    """Names with their numbers as bars; a table, so that it reads without seeing the bars.

    Args:
        caption: of the table.
        counted: names and numbers, the largest first.
        open_row: called with a name that is clicked; without it the numbers are no shares of a whole either.
    """
    most = max((count for _, count in counted), default=1)
    total = sum(count for _, count in counted)
    with tag("div", classes="wide"), tag("table", classes="bars"):
        tag("caption", caption)
        with tag("tbody"):
            for name, count in counted:
                with tag("tr"):
                    with tag("th", scope="row"):
                        if open_row is None:
                            tag("span", name, dir="auto")
                        else:
                            ask = tag("button", name, "link", type="button", title="show these triplets")
                            ask.on("click", lambda name=name: open_row(name))
                    tag("td", f"{count:,}", "n")
                    if open_row is not None:
                        tag("td", f"{100 * count / total:.1f} %" if total else "", "n soft")
                    with tag("td", classes="bar", aria_hidden="true"):
                        tag("div", style=f"width: {100 * count / most:.1f}%")


def chart(drawn: object) -> None:
    """A chart of `tasks.report_plots`: markup of ours, in which texts were escaped."""
    ui.html(str(drawn), sanitize=False)


def empty(text: str) -> None:
    """Why there is nothing to be seen."""
    tag("p", text, "empty")


def busy(text: str) -> Element:
    """Shown while something is worked out."""
    with tag("div", classes="busy", role="status") as box:
        ui.spinner(size="1.4em")
        tag("span", text)
    return box


def told(problem: BaseException) -> str:
    """An error in words."""
    return str(problem.args[0] if isinstance(problem, LookupError) and problem.args else problem)


def wrong(text: str) -> None:
    """Tell that something cannot be done."""
    ui.notify(text, type="negative", position="top", multi_line=True, close_button="Close", timeout=8000)


def of_row(row: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The plain values of a triplet, for a list of facts."""
    left_out = ("modification", "provenance", "row", "negative_ids", "negative_texts", "target_text")
    found = [(name, value) for name, value in row.items() if name not in left_out and value is not None]
    found += [(name, ", ".join(row[name])) for name in ("negative_ids", "negative_texts") if row[name]]
    known = row["provenance"]
    return [*found, *((name, known[name]) for name in ("model", "revision", "prompt_digest", "caption_prompt_digest"))]
