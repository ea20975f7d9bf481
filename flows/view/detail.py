"""Everything that is known of one triplet: what was asked and answered, what was said of it, its neighbours."""

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import run, ui

from flows.view.cards import offered
from flows.view.parts import IMAGES, World, chip, empty, facts, of_row, opinion_chips, picture, table, tag, words
from tasks.curation import Opinion
from tasks.view_table import Row

NEIGHBOURS = 8


class Detail:
    """A panel over the page.

    Attributes:
        opened: whether it is there.
        row: the triplet that it shows.
    """

    def __init__(
        self,
        world: World,
        act: Callable[[int | None, str], Awaitable[None]],
        step: Callable[[int], Awaitable[None]],
    ) -> None:
        """Prepare an empty panel; `act` and `step` are those of the gallery."""
        self._world, self._act, self._step = world, act, step
        self.row: Row | None = None
        self.opened = False
        self._said: Any = None
        self.on_close: Callable[[], None] = lambda: None
        self._dialog = ui.dialog().props("full-width full-height no-route-dismiss no-focus transition-duration=0")
        self._dialog.on("hide", self._hidden)
        with self._dialog, ui.card().classes("detail"):
            self._content = tag("div", classes="content", role="document", aria_label="details of a triplet")

    async def open(self, row: Row, judging: bool) -> None:
        """Show a triplet."""
        self.row = row
        world, source = self._world, self._world.source
        asked = row["provenance"]["request_ids"]
        answers, verdicts, near = await run.io_bound(
            lambda: (
                source.answers(asked),
                source.kept.verdicts([row["triplet_id"]]),
                source.neighbours(row["reference_id"], NEIGHBOURS, row["rank"]),
            )
        ) or ([], {}, [])
        if self.row is not row:
            return
        self._content.clear()
        with self._content:
            self._head(row, judging)
            with tag("div", classes="big-pair"):
                for role in ("reference", "target"):
                    image_id = row[f"{role}_id"]
                    if image_id is not None:
                        with tag("figure"):
                            picture(world, IMAGES, image_id, 512, role)
                            tag("figcaption", f"{role} {image_id}", "soft")
                with tag("div", classes="texts"):
                    self._said = tag("div")
                    self.heard(row, source.curation.opinion(row))
                    for name in ("reference_caption", "target_caption"):
                        if row[name] is not None:
                            tag("h3", name.replace("_", " "))
                            tag("p", row[name], dir="auto")
            _neighbours(world, row, near)
            _answers(answers, asked)
            _verdicts(verdicts.get(row["triplet_id"], []))
            tag("h3", "Row")
            facts(of_row(row))
        self.opened = True
        self._dialog.open()

    def heard(self, row: Row, opinion: Opinion) -> None:
        """Somebody said something of a triplet."""
        if self._said is None or self.row is None or self.row["triplet_id"] != row["triplet_id"]:
            return
        self._said.clear()
        with self._said:
            words(row, "modification", opinion, "modification")
            if row["target_text"] is not None:
                tag("h3", "target text")
                words(row, "target_text", opinion, "target-text")
            with tag("p", classes="chips"):
                opinion_chips(opinion)
            if opinion.history:
                with tag("ul", classes="history", aria_label="what people said"):
                    for said in opinion.history:
                        what = f"{said.author}: {said.action.replace('_', ' ')} {said.value}"
                        tag("li", f"{said.time[:19].replace('T', ' ')} {what}".strip(), dir="auto")

    def close(self) -> None:
        """Take the panel away."""
        self._dialog.close()

    def _head(self, row: Row, judging: bool) -> None:
        with tag("div", classes="detail-head"):
            tag("h2", "Triplet")
            tag("code", row["triplet_id"])
            with tag("div", classes="buttons"):
                for action, sign, label, key in offered(row, judging):
                    if action != "open":
                        button = tag("button", f"{sign} {label}", f"action {action}", type="button", title=f"key {key}")
                        button.on("click", lambda action=action: self._act(None, action))
                tag("button", "←", "action", type="button", aria_label="previous").on("click", lambda: self._step(-1))
                tag("button", "→", "action", type="button", aria_label="next").on("click", lambda: self._step(1))
                tag("button", "Close (Esc)", "action", type="button").on("click", self.close)

    def _hidden(self) -> None:
        self.opened = False
        self.on_close()


def _neighbours(world: World, row: Row, near: list[Row]) -> None:
    tag("h3", "Neighbours of the reference, by rank")
    if not near:
        empty("The store has no ranking of this reference.")
        return
    with tag("div", classes="strip", tabindex="0", role="region", aria_label="neighbours of the reference by rank"):
        last = 0
        for one in near:
            if one["rank"] > last + 1:
                tag("span", "…", "gap", aria_hidden="true")
            last = one["rank"]
            target = one["candidate_id"] == row["target_id"]
            with tag("figure", classes="neighbour target" if target else "neighbour"):
                picture(world, IMAGES, one["candidate_id"], 96, f"rank {one['rank']}")
                tag("figcaption", f"rank {one['rank']}, {one['score']:.3f}")
                if target:
                    chip("target", "approved")


def _answers(answers: list[Row], asked: list[str]) -> None:
    tag("h3", "What was asked, and the raw answers")
    if not answers:
        empty("The store does not keep what was asked for this triplet." if asked else "No model was asked.")
    for one in answers:
        with tag("details", classes="answer", open="") as box:
            if not one["prompt"].endswith("modification"):
                del box.props["open"]
            with tag("summary"):
                tag("b", one["prompt"])
                tag("span", f" by {one['model']}, {one['finish_reason']}, {one['tokens_in']} tokens in,", "soft")
                tag("span", f" {one['tokens_out']} out, attempt {one['attempt'] + 1}", "soft")
            tag("h4", "Rendered prompt")
            tag("pre", one["rendered"], dir="auto")
            tag("h4", "Raw answer")
            tag("pre", one["raw_response"], dir="auto")
            if one["rejected"] is not None:
                chip(f"not used: {one['rejected']}", "rejected")


def _verdicts(verdicts: list[Row]) -> None:
    if not verdicts:
        return
    tag("h3", "What the filters found")
    rows = [
        (
            one["filter"],
            "" if one["value"] is None else f"{one['value']:.4g}",
            f"{one['threshold']:g}",
            "kept" if one["kept"] else "dropped",
            one["reason"] or "",
        )
        for one in verdicts
    ]
    table("filters in their order", ("filter", "value", "threshold", "verdict", "why"), rows, (1, 2))
