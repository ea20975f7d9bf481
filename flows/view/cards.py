"""One triplet as a card, and what can be done with it."""

from collections.abc import Callable
from dataclasses import dataclass

from nicegui.element import Element

from flows.view.parts import IMAGES, World, chip, opinion_chips, picture, tag, words
from tasks.curation import Opinion
from tasks.view_table import Row

ACTIONS = (
    ("approve", "✓", "Approve", "A"),
    ("reject", "✗", "Reject", "R"),
    ("edit", "✎", "Edit the text", "E"),
    ("edit_target", "✎→", "Edit the target text", "W"),
    ("tag", "#", "Tag", "T"),
    ("open", "⤢", "Details", "Enter"),
)


@dataclass(frozen=True)
class Known:
    """What is known of a triplet beside its row.

    Attributes:
        prompt: name of the prompt that asked for the text, if the store still tells it.
        verdicts: what each filter said, in their order.
        why: of a dropped triplet, what was found; empty otherwise.
    """

    prompt: str | None
    verdicts: list[Row]
    why: str


@dataclass
class Card:
    """A triplet on the page.

    Attributes:
        row, known: the triplet.
        box: its element.
        target, body: what is written anew after somebody said something; a target that is an image is not.
    """

    row: Row
    known: Known
    box: Element
    target: Element | None
    body: Element


def offered(row: Row, judging: bool) -> list[tuple[str, str, str, str]]:
    """What can be done with a triplet, of `ACTIONS`."""
    possible = {"open"} if not judging else {action for action, *_ in ACTIONS}
    if row["target_text"] is None:
        possible.discard("edit_target")
    return [one for one in ACTIONS if one[0] in possible]


def draw_card(
    world: World, row: Row, known: Known, place: int, do: Callable[[int, str], object], focus: Callable[[int], None]
) -> Card:
    """Draw a triplet.

    Args:
        world: where pictures come from.
        row, known: the triplet.
        place: its place on the page, from 0.
        do: called with the place and an action of `ACTIONS`.
        focus: called when the card gets the focus.
    """
    name = f"triplet {row['triplet_id']}"
    with tag("article", classes="card", tabindex="0", aria_label=name, data_triplet=row["triplet_id"]) as box:
        with tag("div", classes="pair"):
            picture(world, IMAGES, row["reference_id"], 192, "reference")
            tag("span", "→", "arrow", aria_hidden="true")
            target = None
            if row["target_id"] is not None:
                picture(world, IMAGES, row["target_id"], 192, "target")
            else:
                target = tag("div", classes="target")
        body = tag("div", classes="body")
        with tag("div", classes="actions", role="group", aria_label=f"what to do with {name}"):
            for action, sign, label, key in offered(row, judging=not known.why):
                button = tag(
                    "button", sign, f"action {action}", type="button", title=f"{label} ({key})", aria_label=label
                )
                button.on("click", lambda _, action=action: do(place, action))
    box.on("focus", lambda: focus(place))
    box.on("mousedown", lambda: focus(place))
    box.on("keydown.enter.self", lambda: do(place, "open"))
    card = Card(row, known, box, target, body)
    write_words(card, world.source.curation.opinion(row))
    return card


def write_words(card: Card, opinion: Opinion) -> None:
    """The texts of a card, anew."""
    row, known = card.row, card.known
    card.box.classes(remove="approved rejected", add=opinion.verdict or "")
    card.body.clear()
    with card.body:
        words(row, "modification", opinion, "modification")
    if card.target is not None:
        card.target.clear()
    with card.body if card.target is None else card.target:
        if row["target_text"] is not None:
            words(row, "target_text", opinion, "target-text")
        elif row["target_id"] is None:
            tag("p", "no target", "target-text")
    with card.body:
        for role in ("reference", "target"):
            caption = row[f"{role}_caption"]
            if caption is not None:
                with tag("p", classes="caption", dir="auto", title=caption):
                    tag("b", f"{role} ")
                    tag("span", caption)
        if known.why:
            tag("p", known.why, "why", dir="auto")
        _verdicts(known.verdicts)
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
            digest = row["provenance"]["prompt_digest"]
            if digest:
                chip(f"prompt {known.prompt or digest[:8]}", "soft", f"prompt that asked for the text, {digest[:12]}")


def _verdicts(verdicts: list[Row]) -> None:
    """What the filters found, a line each for those that it failed, passed, and that had nothing to measure."""
    groups: dict[str, list[str]] = {"✗ failed": [], "✓ passed": [], "not measured": []}
    for one in verdicts:
        if one["value"] is None:
            groups["not measured"].append(one["filter"])
        else:
            value = f"{one['filter']}\N{NO-BREAK SPACE}{one['value']:.3g}"
            groups["✓ passed" if one["kept"] else "✗ failed"].append(value)
    for sign, found in groups.items():
        if found:
            with tag("p", classes=f"verdicts {'failed' if 'failed' in sign else ''}"):
                tag("b", f"{sign} ")
                tag("span", ", ".join(found))
