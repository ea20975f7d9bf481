"""What an MLLM is told when it embeds: templates, the chat turn around them, and the [EOS] that is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

PLACE = re.compile(r"\{\{(\w+)\}\}")
# Stands for the text while the chat template is applied; some templates strip white space off what they are given.
_HERE = "cirque-text-here"


@dataclass(frozen=True)
class Templates:
    """What is said around an image, a caption, and an image with a modification.

    Attributes:
        image: with an image; no placeholder.
        caption: without an image; with `{{caption}}` once.
        query: with an image; with `{{modification}}` once.
    """

    image: str = ""
    caption: str = "{{caption}}"
    query: str = "{{modification}}"

    def __post_init__(self) -> None:
        for name, wanted in (("image", []), ("caption", ["caption"]), ("query", ["modification"])):
            found = PLACE.findall(getattr(self, name))
            if found != wanted:
                raise ValueError(
                    f"the {name} template {getattr(self, name)!r} has the placeholders {found or 'none'}; want"
                    f" {wanted[0] + ', once' if wanted else 'none'}"
                )


BARE = Templates()
"""Nothing around: what a checkpoint without templates of its own is read with."""


class Turn(NamedTuple):
    """One thing to embed: what is said, and whether it goes with an image."""

    template: str
    words: str
    """what fills the template's placeholder; "" where it has none"""
    image: bool


class Layout:
    """One turn of a user in the words of a model's chat template, and the [EOS] behind it.

    A model without a chat template gets the image, a line end, and the text.

    Attributes:
        image_token: text of the token that stands for an image.
        image_id: its number.
        limit: tokens of a turn, the image's counted as one; the filled-in words are cut to it.
    """

    def __init__(self, tokenizer: Any, image_id: int, limit: int) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no [EOS]; an embedding is read there")
        self.tokenizer = tokenizer
        self.image_id = image_id
        self.image_token = str(tokenizer.convert_ids_to_tokens(image_id))
        self.limit = limit
        # Longest first: one may begin with another.
        special = sorted({*tokenizer.all_special_tokens, self.image_token}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)))
        self._around = {image: self._frame(image) for image in (False, True)}
        least = max(map(len, self._tokenize([self._whole(Turn("", "", image)) for image in (True, False)])))
        if limit < least + 8:
            raise ValueError(f"a turn may have {limit} tokens, but {least} of them are the chat template's: allow more")

    def ids(self, turns: Sequence[Turn]) -> tuple[list[list[int]], int]:
        """Token ids of each turn, one for its image, [EOS] last; and how many turns had to be cut."""
        clean = [turn._replace(words=self._clean(turn.words)) for turn in turns]
        rows = self._tokenize([self._whole(turn) for turn in clean])
        cut = 0
        for place, (turn, row) in enumerate(zip(clean, rows, strict=True)):
            if len(row) > self.limit:
                rows[place] = self._shortened(turn, row)
                cut += 1
        return rows, cut

    def too_long(self, turns: Sequence[Turn]) -> int:
        """How many of the turns would be cut."""
        rows = self._tokenize([self._whole(turn._replace(words=self._clean(turn.words))) for turn in turns])
        return sum(len(row) > self.limit for row in rows)

    def _shortened(self, turn: Turn, row: list[int]) -> list[int]:
        words = self.tokenizer(turn.words, add_special_tokens=False)["input_ids"]
        while len(row) > self.limit:
            if not words:
                raise ValueError(f"the template {turn.template!r} alone is longer than {self.limit} tokens")
            words = words[: len(words) - (len(row) - self.limit)] if len(words) > len(row) - self.limit else []
            row = self._tokenize([self._whole(turn._replace(words=self.tokenizer.decode(words)))])[0]
        return row

    def _clean(self, words: str) -> str:
        """One line, without words that the tokenizer would take for an image or for the end."""
        return " ".join(self._special.sub(" ", words).split())

    def _whole(self, turn: Turn) -> str:
        before, after = self._around[turn.image]
        return before + PLACE.sub(lambda _: turn.words, turn.template) + after

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        # What begins a text ([BOS]) is the tokenizer's to add, unless the chat template wrote it.
        begun = self.tokenizer.bos_token
        special = not (begun and texts[0].startswith(begun))
        end = self.tokenizer.eos_token_id
        found = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        return [[*(row[:-1] if row and row[-1] == end else row), end] for row in found]

    def _frame(self, image: bool) -> tuple[str, str]:
        """What stands before and after the text."""
        marked = f"{self.image_token}\n{_HERE}" if image else _HERE
        if not self.tokenizer.chat_template:
            before, _, after = marked.partition(_HERE)
            return before, after
        parts = [*([{"type": "image"}] if image else []), {"type": "text", "text": _HERE}]
        # Some templates take parts, some a text in which the image is marked.
        for content in (parts, marked):
            turn = self._applied(content)
            if turn.count(self.image_token) == int(image) and turn.count(_HERE) == 1:
                before, _, after = turn.partition(_HERE)
                return before, after
        raise ValueError(
            f"the chat template gives a user's turn without its text or without {self.image_token!r}; is it a template"
            " for images?"
        )

    def _applied(self, content: Any) -> str:
        message = [{"role": "user", "content": content}]
        try:
            return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
        except Exception:  # a template is a program; whatever it raises, it does not take this content
            return ""
