"""Dialogs in which somebody writes."""

from typing import Literal

from nicegui import ui

from flows.view.parts import tag
from tasks.curation import LONGEST

KEYS = (
    ("A", "approve, and go on"),
    ("R", "reject, and go on"),
    ("U", "take the verdict back"),
    ("E", "edit the text"),
    ("W", "edit the target text, where there is one"),
    ("T", "tag"),
    ("J or →", "next triplet"),
    ("K or ←", "previous triplet"),
    ("N, P", "next, previous page"),
    ("Enter", "details; Esc closes them"),
    ("/", "search"),
    ("?", "these keys"),
)


async def ask_text(name: str, original: str, edited: str | None) -> str | None:
    """The text of a name in other words; "" takes an earlier edit back; None: nothing is to be changed."""
    with ui.dialog() as dialog, ui.card().classes("asking"):
        tag("h2", f"Edit the {name}")
        tag("p", f"It was: {original}", "was", dir="auto")
        field = ui.textarea(name.capitalize(), value=edited or original).props("outlined autofocus autogrow")
        field.props["maxlength"] = LONGEST["edit"]
        tag("p", "Ctrl+Enter saves, Esc leaves it as it is.", "soft")

        def save() -> None:
            text = field.value.strip()
            dialog.submit("" if text == original and edited is not None else text)

        field.on("keydown.ctrl.enter.prevent", save)
        with tag("div", classes="buttons"):
            if edited is not None:
                ui.button("Back to the original", on_click=lambda: dialog.submit("")).props("flat no-caps")
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
            ui.button("Save", on_click=save).props("unelevated no-caps")
    answer = await dialog
    dialog.delete()
    return None if answer is None or answer == (edited or original) else str(answer)


async def ask_tag(there: set[str]) -> tuple[Literal["tag", "untag"], str] | None:
    """A tag to put on or to take away; None: neither."""
    with ui.dialog() as dialog, ui.card().classes("asking"):
        tag("h2", "Tag")
        field = ui.input("Tag, such as wrong-colour").props("outlined autofocus")
        field.props["maxlength"] = LONGEST["tag"]

        def save() -> None:
            word = field.value.strip()
            dialog.submit(("tag", word) if word else None)

        field.on("keydown.enter.prevent", save)
        with tag("p", classes="chips"):
            for word in sorted(there):
                button = tag("button", f"# {word} ✕", "chip tagged", type="button", title="take this tag away")
                button.on("click", lambda word=word: dialog.submit(("untag", word)))
        with tag("div", classes="buttons"):
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
            ui.button("Save", on_click=save).props("unelevated no-caps")
    answer = await dialog
    dialog.delete()
    return answer  # type: ignore[no-any-return]


def show_keys() -> None:
    """The keys and what they do."""
    with ui.dialog() as dialog, ui.card().classes("asking"):
        tag("h2", "Keys")
        with tag("dl", classes="keys"):
            for key, what in KEYS:
                with tag("div"):
                    with tag("dt"):
                        tag("kbd", key)
                    tag("dd", what)
        ui.button("Close", on_click=dialog.close).props("flat no-caps")
    dialog.on("hide", dialog.delete)
    dialog.open()
