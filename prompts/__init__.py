"""Prompts: one Markdown file each, filled strictly.

A file starts with its front matter, then comes the text, in which `{{name}}` is a placeholder:

    ---
    images: 2
    answer: modification
    ---
    Write what changes from the first image ({{reference_caption}}) to the second. ...

`images` is the number of images the text speaks of, `answer` names the text fields of the JSON object it asks for.
Files in `styles/` and `genecis/` have no front matter: a style is a phrase that fills a placeholder `{{style}}`, a
GeneCIS template the text of a query of the task it is named after. They are loaded as "styles/<name>". Nor have those
in `instruct_cir/templates/`, which say what an MLLM is told when it embeds; see `tasks.templates`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FOLDER = Path(__file__).parent
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
PHRASES = ("styles/", "genecis/", "instruct_cir/templates/")  # folders of texts that ask for no answer
FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n(.*)", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """A text with placeholders.

    Attributes:
        name: path below prompts/ without ".md".
        text: what follows the front matter, without the last line's end.
        digest: SHA-256 of the whole file.
        images: how many images go with it.
        answer: fields of the JSON object that it asks for; each is a text.
    """

    name: str
    text: str
    digest: str
    images: int
    answer: tuple[str, ...]

    @cached_property
    def placeholders(self) -> frozenset[str]:
        return frozenset(PLACEHOLDER.findall(self.text))

    def render(self, **fields: str) -> str:
        """Fill every placeholder. What is filled in is not searched for placeholders again.

        Raises:
            ValueError: if a field is missing, unknown, or blank.
        """
        missing, unknown = self.placeholders - fields.keys(), fields.keys() - self.placeholders
        if missing or unknown:
            raise ValueError(
                f"prompt {self.name!r} has the placeholders {_listed(self.placeholders)}; missing: {_listed(missing)}, "
                f"unknown: {_listed(unknown)}"
            )
        blank = {name for name, value in fields.items() if not value.strip()}
        if blank:
            raise ValueError(f"prompt {self.name!r}: the fields {_listed(blank)} are blank")
        return PLACEHOLDER.sub(lambda match: fields[match.group(1)], self.text)


def load(name: str, folder: Path = FOLDER) -> Prompt:
    """Load `prompts/<name>.md`.

    Raises:
        LookupError: if there is no such prompt; names those there are.
        ValueError: if the file is not as the module describes.
    """
    path = _file(name, folder)
    content = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(content.encode("utf-8")).hexdigest()
    if name.startswith(PHRASES):
        return Prompt(name, " ".join(content.split()), digest, images=0, answer=())
    parts = FRONT_MATTER.fullmatch(content)
    if parts is None:
        raise ValueError(f"prompt {path.name}: want a front matter between two lines '---', then the text")
    facts = _front_matter(parts.group(1), path.name)
    text = parts.group(2).strip()
    stray = re.findall(r"\{\{.*?\}\}", PLACEHOLDER.sub("", text))
    if stray or not text:
        raise ValueError(f"prompt {path.name}: " + (f"{stray[0]!r} is no placeholder" if stray else "no text"))
    return Prompt(
        name=name,
        text=text,
        digest=digest,
        images=int(facts["images"]),
        answer=tuple(part.strip() for part in facts["answer"].split(",")),
    )


def names(folder: Path = FOLDER) -> list[str]:
    """Names of all prompts, sorted; styles and other phrases are left out."""
    return [name for name in _all(folder) if not name.startswith(PHRASES)]


def styles(folder: Path = FOLDER) -> list[str]:
    """Names of all styles, sorted, without "styles/"."""
    return [name.removeprefix("styles/") for name in _all(folder) if name.startswith("styles/")]


def _all(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.md"))


def _file(name: str, folder: Path) -> Path:
    if name not in _all(folder):
        raise LookupError(f"no prompt {name!r}; there are: {_listed(_all(folder))}")
    return folder / f"{name}.md"


def _front_matter(block: str, where: str) -> Mapping[str, str]:
    facts: dict[str, str] = {}
    for line in block.splitlines():
        key, colon, value = line.partition(":")
        if not colon or key in facts:
            raise ValueError(f"prompt {where}: front matter line {line!r}; want one 'key: value' per line")
        facts[key] = value.strip()
    if facts.keys() != {"images", "answer"}:
        raise ValueError(f"prompt {where}: front matter has {_listed(facts)}; want images and answer")
    if not re.fullmatch(r"\d+", facts["images"]) or not re.fullmatch(r"\w+(, *\w+)*", facts["answer"]):
        raise ValueError(f"prompt {where}: want 'images: 2' and 'answer: field, other_field', got {dict(facts)}")
    return facts


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"
