"""Prompts are filled strictly, and every shipped one is sound."""

import json
import re
from pathlib import Path

import pytest

import prompts

GOOD = "---\nimages: 1\nanswer: caption, extra\n---\nSay {{what}} of {{whom}}, {{what}}.\n"


def _write(folder: Path, content: str, name: str = "some/thing") -> Path:
    path = folder / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return folder


def test_a_prompt_knows_its_images_answer_and_placeholders(tmp_path: Path) -> None:
    prompt = prompts.load("some/thing", _write(tmp_path, GOOD))
    assert (prompt.images, prompt.answer, prompt.placeholders) == (1, ("caption", "extra"), {"what", "whom"})
    assert prompt.render(what="a", whom="b") == "Say a of b, a."


def test_what_is_filled_in_is_not_filled_again(tmp_path: Path) -> None:
    prompt = prompts.load("some/thing", _write(tmp_path, GOOD))
    assert prompt.render(what="{{whom}}", whom=r"\1") == r"Say {{whom}} of \1, {{whom}}."


def test_any_change_of_the_file_changes_the_digest(tmp_path: Path) -> None:
    first = prompts.load("some/thing", _write(tmp_path, GOOD)).digest
    assert prompts.load("some/thing", _write(tmp_path, GOOD.replace("images: 1", "images: 2"))).digest != first


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"what": "a"}, "missing: whom"),
        ({"what": "a", "whom": "b", "who": "c"}, "unknown: who"),
        ({"what": "a", "whom": "  "}, "whom are blank"),
    ],
)
def test_missing_unknown_and_blank_fields_are_refused(tmp_path: Path, fields: dict[str, str], complaint: str) -> None:
    prompt = prompts.load("some/thing", _write(tmp_path, GOOD))
    with pytest.raises(ValueError, match=complaint):
        prompt.render(**fields)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("no front matter", "front matter"),
        ("---\nimages: 1\n---\ntext", "want images and answer"),
        ("---\nimages: one\nanswer: a\n---\ntext", "want 'images: 2'"),
        ("---\nimages: 1\nanswer: a b\n---\ntext", "want 'images: 2'"),
        ("---\nimages: 1\nimages: 1\n---\ntext", "key: value"),
        ("---\nimages: 1\nanswer: a\n---\n \n", "no text"),
        ("---\nimages: 1\nanswer: a\n---\n{{ spaced }}", "no placeholder"),
    ],
)
def test_a_faulty_file_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        prompts.load("some/thing", _write(tmp_path, content))


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    _write(tmp_path, "a phrase", "styles/short")
    with pytest.raises(LookupError, match=r"no prompt 'else'; there are: some/thing, styles/short$"):
        prompts.load("else", _write(tmp_path, GOOD))
    with pytest.raises(LookupError, match=r"no prompt 'styles/../some/thing'"):
        prompts.load("styles/../some/thing", tmp_path)
    assert (prompts.names(tmp_path), prompts.styles(tmp_path)) == (["some/thing"], ["short"])


def test_a_style_is_one_line(tmp_path: Path) -> None:
    style = prompts.load("styles/short", _write(tmp_path, "a short\n  phrase\n", "styles/short"))
    assert (style.text, style.images, style.answer) == ("a short phrase", 0, ())


@pytest.mark.parametrize("name", prompts.names())
def test_a_shipped_prompt_shows_the_object_it_asks_for(name: str) -> None:
    prompt = prompts.load(name)
    shown = [json.loads(found) for found in re.findall(r'\{"[^{}]*\}', prompt.text)]
    assert shown
    assert {tuple(example) for example in shown} == {prompt.answer}


@pytest.mark.parametrize("name", [name for name in prompts.names() if name.endswith("_b")])
def test_both_sets_of_prompts_take_and_give_the_same(name: str) -> None:
    first, second = prompts.load(name.removesuffix("_b")), prompts.load(name)
    assert (first.placeholders, first.images, first.answer) == (second.placeholders, second.images, second.answer)
    assert first.digest != second.digest


def test_the_recipes_find_their_prompts_and_styles() -> None:
    wanted = {
        "caption": (1, set()),
        "mra_cir/modification": (2, {"reference_caption", "target_caption", "style"}),
        "mvft_ji/modification": (1, {"style", "edit_type"}),
        "mvft_ji/target_text": (1, {"modification"}),
        "instruct_cir/instruction": (0, {"caption", "edit_type"}),
        "judge": (2, {"modification"}),
    }
    found = {name: (prompts.load(name).images, set(prompts.load(name).placeholders)) for name in wanted}
    assert found == wanted
    assert {"short", "sentence"} <= set(prompts.styles())
