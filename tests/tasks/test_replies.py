"""Whatever a model writes becomes the texts asked for, or a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prompts
from tasks.replies import Rejected, read_reply, shown_example

FIELDS = ("caption",)


@pytest.mark.parametrize(
    "raw",
    [
        '{"caption": "a red ball"}',
        ' \n{"caption": " a red\n\tball "}\n',
        '```json\n{"caption": "a red ball"}\n```',
        'Sure! Here is {the} object:\n```\n{"caption": "a red ball"}\n```\nAnything else?',
        'The answer {"note": 1} is {"caption": "a red ball", "confidence": 0.9} and {"caption": "another"}.',
        '{"caption": "a red ball"} {"caption": "a red ball"}',
        '{{"caption": "a red ball"}}',
    ],
)
def test_the_object_is_found(raw: str) -> None:
    assert read_reply(raw, "stop", FIELDS) == {"caption": "a red ball"}


@pytest.mark.parametrize(
    ("raw", "finish_reason", "reason"),
    [
        ("", "stop", "empty"),
        (" \n", "length", "empty"),
        ('{"caption": " "}', "stop", "empty"),
        ('{"caption": "a red', "length", "cut_off"),
        ('{"caption": "a red ball"}', "length", "cut_off"),
        ('{"caption": "a red', "stop", "unparsable"),
        ("a red ball", "stop", "unparsable"),
        ('{"caption": ["a red ball"]}', "stop", "unparsable"),
        ('{"caption": null}', "stop", "unparsable"),
        (r'{"caption": "half a pair: \ud83d"}', "stop", "unparsable"),
        ("{" * 5000, "stop", "repeated"),
        ('{"a": ' * 5000, "stop", "repeated"),
        ("".join(f'{{"{place}": ' for place in range(5000)), "stop", "unparsable"),
        ('["caption"]', "stop", "unparsable"),
        ('{"description": "a red ball"}', "stop", "missing_field"),
        ("I'm sorry, but I can't help with that.", "stop", "refusal"),
        ("As an AI, I do not see images.", "stop", "refusal"),
        ('{"caption": "I cannot see the image."}', "stop", "refusal"),
        ('{"caption": "Sorry, the image is blank"}', "stop", "refusal"),
        ('{"caption": "a ball and a ball and a ball and a ball and a ball and a ball"}', "stop", "repeated"),
        ('{"caption": "' + "the red ball is on the left side. " * 9, "length", "repeated"),
        (json.dumps({"caption": "one two three four five six seven eight nine ten " * 3}), "stop", "repeated"),
        ('{"caption": "' + "球" * 40 + '"}', "stop", "repeated"),
        ("!" * 300, "stop", "repeated"),
        ("anything", "too_long", "too_long"),
        ("ValueError: ...", "error", "engine_error"),
    ],
)
def test_what_cannot_be_used_has_a_reason(raw: str, finish_reason: str, reason: str) -> None:
    found = read_reply(raw, finish_reason, FIELDS)
    assert isinstance(found, Rejected)
    assert found.reason == reason
    assert found.retry == (reason not in ("too_long", "engine_error"))


@pytest.mark.parametrize(
    "text",
    [
        "a red ball on the left and a red ball on the right",
        "a row of five red, red, red and red balls",
        "the sorry state of a house; I am told it is old",
        "a sign that says: I cannot swim",
        "a dog ... and 1,000,000 ants",
        'a sign with "STOP" \\ and {braces}',
    ],
)
def test_ordinary_texts_pass(text: str) -> None:
    assert read_reply(json.dumps({"caption": text}), "stop", FIELDS) == {"caption": text}


def test_every_field_is_needed() -> None:
    fields = ("instruction", "modified_caption")
    assert read_reply('{"instruction": "a", "modified_caption": "b"}', "stop", fields) == {
        **{"instruction": "a", "modified_caption": "b"}
    }
    assert read_reply('{"instruction": "a"}', "stop", fields) == Rejected("missing_field")


def test_the_prompts_own_example_is_no_answer() -> None:
    prompt = prompts.load("caption")
    example = shown_example(prompt.text, prompt.answer)
    assert example == {"caption": "the sentence"}
    assert read_reply('{"caption": "the sentence"}', "stop", FIELDS, example) == Rejected("echo")
    assert read_reply('{"caption": "the sentence is long"}', "stop", FIELDS, example) == {
        **{"caption": "the sentence is long"}
    }
    judge = prompts.load("judge")
    assert shown_example(judge.text, judge.answer) is None  # it shows both answers


@given(st.text(), st.sampled_from(["stop", "length"]))
def test_any_text_is_read_or_rejected(raw: str, finish_reason: str) -> None:
    found = read_reply(raw, finish_reason, FIELDS)
    assert isinstance(found, Rejected) or found["caption"].strip()


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.text())), st.text(), st.text())
def test_any_object_is_read_or_rejected(fields: dict[str, object], before: str, value: str) -> None:
    found = read_reply(before + json.dumps({**fields, "caption": value}), "stop", FIELDS)
    if not isinstance(found, Rejected):
        found["caption"].encode("utf-8")


@pytest.mark.parametrize(
    ("unit", "least"), [("red ", 5), ("a red dog, ", 5), ("one two three four five six ", 3), ("!", 10), ("so", 10)]
)
def test_repeated_is_what_comes_so_often(unit: str, least: int) -> None:
    often, seldom = (json.dumps({"caption": f"it is {unit * times}"}) for times in (least, least - 1))
    assert read_reply(often, "stop", FIELDS) == Rejected("repeated")
    assert not isinstance(read_reply(seldom, "stop", FIELDS), Rejected)
