"""One triplet as a card, and what can be done with it."""

from collections.abc import Callable
from dataclasses import dataclass

from nicegui.element import Element

from flows.view.parts import IMAGES, World, chip, opinion_chips, picture, tag
from tasks.curation import Opinion
from tasks.view_table import Row

ACTIONS = (
    ("approve", "✓", "Approve", "A"),
    ("reject", "✗", "Reject", "R"),
    ("edit", "✎", "Edit the text", "E"),
    ("tag", "#", "Tag", "T"),
    ("open", "⤢", "Details", "Enter"),
)


@dataclass
class Card:
    """A triplet on the page.

    Attributes:
        row: the triplet.
        box: its element.
        body: what is written anew after somebody said something.
    """

    row: Row
    box: Element
    body: Element


def draw_card(
    world: World, row: Row, place: int, do: Callable[[int, str], object], focus: Callable[[int], None], why: str
) -> Card:
    """Draw a triplet.

    Args:
        world: where pictures come from.
        row: the triplet.
        place: its place on the page, from 0.
        do: called with the place and an action of `ACTIONS`.
        focus: called when the card gets the focus.
        why: of a dropped triplet, what was found; empty otherwise.
    """
    name = f"triplet {row['triplet_id']}"
    with tag("article", classes="card", tabindex="0", aria_label=name, data_triplet=row["triplet_id"]) as box:
        with tag("div", classes="pair"):
            picture(world, IMAGES, row["reference_id"], 192, "reference")
            tag("span", "→", "arrow", aria_hidden="true")
            if row["target_id"] is not None:
                picture(world, IMAGES, row["target_id"], 192, "target")
            else:
                tag("p", row["target_text"] or "no target", "target-text", dir="auto")
        body = tag("div", classes="body")
        with tag("div", classes="actions", role="group", aria_label=f"what to do with {name}"):
            for action, sign, label, key in ACTIONS:
                if why and action != "open":
                    continue
                button = tag(
                    "button", sign, f"action {action}", type="button", title=f"{label} ({key})", aria_label=label
                )
                button.on("click", lambda _, action=action: do(place, action))
    box.on("focus", lambda: focus(place))
    box.on("mousedown", lambda: focus(place))
    box.on("keydown.enter.self", lambda: do(place, "open"))
    card = Card(row, box, body)
    write_body(card, world.source.curation.opinion(row), why)
    return card


def write_body(card: Card, opinion: Opinion, why: str = "") -> None:
    """The texts of a card, anew."""
    row = card.row
    card.box.classes(remove="approved rejected", add=opinion.verdict or "")
    card.body.clear()
    with card.body:
        tag("p", opinion.text or row["modification"], "modification", dir="auto")
        if opinion.text is not None:
            tag("p", f"was: {row['modification']}", "was", dir="auto")
        if row["target_text"] is not None and row["target_id"] is not None:
            tag("p", row["target_text"], "target-text", dir="auto")
        for role in ("reference", "target"):
            caption = row[f"{role}_caption"]
            if caption is not None:
                with tag("p", classes="caption", dir="auto", title=caption):
                    tag("b", f"{role} ")
                    tag("span", caption)
        if why:
            tag("p", why, "why", dir="auto")
        with tag("p", classes="chips"):
            opinion_chips(opinion)
            if row["rank"] is not None:
                chip(f"rank {row['rank']}")
            if row["score"] is not None:
                chip(f"{row['score']:.3f}", title="similarity of reference and target")
            for name in ("edit_type", "style"):
                if row[name] is not None:
                    chip(row[name], title=name)
            chip(row["provenance"]["model"], "soft", "model that wrote the texts")
