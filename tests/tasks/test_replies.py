"""Whatever a model writes becomes the texts asked for, or a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prompts
from tasks import replies
from tasks.replies import Rejected, read_reply, shown_examples

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
        # A form that is filled in afterwards.
        'In the form {"caption": "..."} it is {"caption": "a red ball"}.',
        # Thoughts before it, with and without the tag that a chat template may have written.
        '<think>First {"caption": "a blue ball"}, but no ...</think>{"caption": "a red ball"}',
        '<think>\n```json\n{"caption": "a blue ball"}\n```\n</think>\n{"caption": "a red ball"}',
        'Perhaps {"caption": "a blue ball"}?</think>Or not. </THINK> {"caption": "a red ball"}',
        '\n[THINK]{"caption": "a blue ball"}[/THINK]{"caption": "a red ball"}',
        '◁think▷{"caption": "a blue ball"}◁/think▷{"caption": "a red ball"}',
    ],
)
def test_the_object_is_found(raw: str) -> None:
    assert read_reply(raw, "stop", FIELDS) == {"caption": "a red ball"}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('{"caption": "a red ball",}', "a red ball"),
        ("```json\n{\n  'caption': 'a red ball',\n}\n```", "a red ball"),
        ("Here's it: {'caption': 'a \"red\" ball', 'confidence': 0.9}", 'a "red" ball'),
        (r"{'caption': 'the dog\'s ball'}", "the dog's ball"),
        ("{'caption': \"the dog's ball\"}", "the dog's ball"),
        ("{“caption”: “the dog’s ball”}", "the dog’s ball"),
        ("{‘caption’: ‘a red ball’}", "a red ball"),
        (r"{\"caption\": \"a red ball\"}", "a red ball"),
        (r'"{\"caption\": \"a \\\"red\\\" ball\"}"', 'a "red" ball'),
        ('{"answer": {"caption": "a red ball"}}', "a red ball"),
        ('{"answers": [1, {"caption": "a red ball"}]}', "a red ball"),
        ('{"Caption": "a red ball"}', "a red ball"),
        ('{" CAPTION ": "a red ball"}', "a red ball"),
        (r'{"caption": "a \_red\_ ball"}', "a _red_ ball"),
        ("{'caption': '...'} {'caption': 'a red ball'} {'caption': 'a red ball'}", "a red ball"),
    ],
)
def test_what_is_nearly_the_object_is_read(raw: str, text: str) -> None:
    assert read_reply(raw, "stop", FIELDS) == {"caption": text}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("{'caption': 'the dog's tail'}", "unparsable"),
        ("{'caption': 'the dogs', cats' and mice'}", "unparsable"),
        ("{'caption': 'the letter 'r' in red'}", "unparsable"),  # Python takes it for "the letter " and r" in red"
        ('{"caption": "a sign "STOP" here"}', "unparsable"),
        ('{"caption": "a sign "" here"}', "unparsable"),
        ("{‘caption’: ‘the dog’s tail’}", "unparsable"),
        ("{“caption”: “a “red” ball”}", "unparsable"),
        (r'{"caption\": \"a red ball"}', "unparsable"),
        (r"{'caption': 'C:\dog'}", "unparsable"),
        ("{'caption': None}", "unparsable"),
        ("{caption: a red ball}", "unparsable"),
        ("It's a red ball, 'caption': 'a red ball'", "unparsable"),
        ("{'caption': 'a red ball'} or {'caption': 'a blue ball'}", "unparsable"),
        ('{"before": {"caption": "a red ball"}, "after": {"caption": "a blue ball"}}', "unparsable"),
        ('{"Caption": "a red ball", "CAPTION": "a blue ball"}', "unparsable"),
        ("{'description': 'a red ball'}", "missing_field"),
        ('{"answer": {"description": "a red ball"}}', "missing_field"),
    ],
)
def test_what_would_be_a_guess_is_not_read(raw: str, reason: str) -> None:
    assert read_reply(raw, "stop", FIELDS) == Rejected(reason)


@pytest.mark.parametrize(
    ("raw", "finish_reason", "reason"),
    [
        ("", "stop", "empty"),
        (" \n", "length", "empty"),
        ('{"caption": " "}', "stop", "empty"),
        ('{"caption": "..."}', "stop", "empty"),
        ('{"caption": "-"}', "stop", "empty"),
        ('<think>Or {"caption": "a red ball"}?</think>', "stop", "empty"),
        ('{"caption": "a red', "length", "cut_off"),
        (' <think>Perhaps {"caption": "a red ball"}', "stop", "cut_off"),
        ('<think>It is red.</think> <think>Perhaps {"caption": "a red ball"}', "stop", "cut_off"),
        ("<think>" + f'{{"caption": "a red ball"}}{" or" * 9000}', "stop", "repeated"),
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
        ('{"caption": "Sorry"}', "stop", "refusal"),
        ('{"caption": "Sorry but this is not a photo"}', "stop", "refusal"),
        ('{"caption": "I am so sorry. I see nothing."}', "stop", "refusal"),
        ('{"caption": "I\'m unable to see it."}', "stop", "refusal"),
        ('{"caption": "I do not have access to images"}', "stop", "refusal"),
        ('{"caption": "I don\'t have the ability to see"}', "stop", "refusal"),
        ('{"caption": "I do not have enough information"}', "stop", "refusal"),
        ('{"caption": "a ball and a ball and a ball and a ball and a ball and a ball"}', "stop", "repeated"),
        ('{"caption": "' + "the red ball is on the left side. " * 9, "length", "repeated"),
        (json.dumps({"caption": "one two three four five six seven eight nine ten " * 3}), "stop", "repeated"),
        ('{"caption": "' + "球" * 40 + '"}', "stop", "repeated"),
        ("!" * 300, "stop", "repeated"),
        ('{"caption": "aaaaaaaaaaaaaa"}', "stop", "repeated"),
        ('{"caption": "a ball ..............."}', "stop", "repeated"),
        ('{"caption": "number ' + "0" * 40 + '"}', "stop", "repeated"),
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
        "sorry sign instead of open sign",
        '"Sorry, we are closed" instead of "open"',
        "I do not have a dog in it",
        "change the number to 10000000000",
        "from 1111111111111 to 0.3333333333333333",
        "none of the dogs are brown",
        "nothing on the table but a mug",
        "no change in colour but a larger dog",
        "no changes, but the dog is brown",
        "the images are identical except for a red mug",
        "the two dogs are the same",
        "the same dog, but in the second image of the mirror",
        "there is not enough light",
        "I do not have a dog in the image, add one",
        "cannot fly any more",
        "[red] instead of [blue]",
        "unable to stand",
        "no",
    ],
)
def test_ordinary_texts_pass(text: str) -> None:
    assert read_reply(json.dumps({"caption": text}), "stop", FIELDS) == {"caption": text}


@pytest.mark.parametrize(
    "text",
    [
        *("N/A", "n/a.", "none", "(None)", "null", "Nothing.", "unknown", "no change", "No changes needed.", "nil"),
        *("There is no visible difference between the two images.", "No modification", "not applicable"),
        *("Unable to determine the change.", "Impossible to compare the two", "Not enough information to tell"),
        *("The images are identical, no change", "Both images are the same.", "The image remains unchanged"),
        "The first image and the second image appear to be nearly identical, so there are no changes to describe.",
        *("The second image is identical to the first image.", "No changes are necessary as the images are identical."),
        *("There is no difference between the first and second image", "There is not enough information to tell."),
        *("It is impossible to tell.", "Cannot determine", "No image provided", "Image not available", "same image"),
        *("I don't see any images.", "My apologies, I cannot", "I must decline.", "[modification]", "<your caption>"),
    ],
)
def test_a_text_that_says_nothing_is_a_refusal(text: str) -> None:
    assert read_reply(json.dumps({"caption": text}), "stop", FIELDS) == Rejected("refusal")


def test_who_repeats_all_words_to_choose_from_has_chosen_none() -> None:
    raw = '{"verdict": "yes"} or {"verdict": "no"}'
    assert read_reply(raw, "stop", ("verdict",)) == Rejected("unparsable")
    assert read_reply(raw.replace("no", "Yes"), "stop", ("verdict",)) == {"verdict": "yes"}


def test_every_field_is_needed() -> None:
    fields = ("instruction", "modified_caption")
    assert read_reply('{"instruction": "a", "modified_caption": "b"}', "stop", fields) == {
        **{"instruction": "a", "modified_caption": "b"}
    }
    assert read_reply('{"instruction": "a"}', "stop", fields) == Rejected("missing_field")


def test_the_prompts_own_example_is_no_answer() -> None:
    prompt = prompts.load("caption")
    examples = shown_examples(prompt.text, prompt.answer)
    assert examples == ({"caption": "the sentence"},)
    assert read_reply('{"caption": "the sentence"}', "stop", FIELDS, examples) == Rejected("echo")
    assert read_reply("{'caption': 'The Sentence.'}", "stop", FIELDS, examples) == Rejected("echo")
    assert read_reply('{"caption": "the sentence is long"}', "stop", FIELDS, examples) == {
        **{"caption": "the sentence is long"}
    }
    raw = 'In the form {"caption": "The sentence."} it is\n```json\n{"caption": "a red ball"}\n```'
    assert read_reply(raw, "stop", FIELDS, examples) == {"caption": "a red ball"}
    assert read_reply(raw.replace("```", ""), "stop", FIELDS, examples) == {"caption": "a red ball"}
    assert read_reply(raw.replace('"', "'").replace("```", ""), "stop", FIELDS, examples) == {"caption": "a red ball"}


@pytest.mark.parametrize("name", prompts.names())
def test_what_a_prompt_shows_is_repeated_or_chosen(name: str) -> None:
    """No prompt's examples are answers, but the judge's are the two words to choose from."""
    prompt = prompts.load(name)
    examples = shown_examples(prompt.text, prompt.answer)
    if name == "judge":
        assert examples == ()
        assert read_reply('{"verdict": "no"}', "stop", prompt.answer, examples) == {"verdict": "no"}
    else:
        assert len(examples) == prompt.text.count("{" + f'"{prompt.answer[0]}"')
        for example in examples:
            assert read_reply(json.dumps(example), "stop", prompt.answer, examples) == Rejected("echo")


def test_an_example_is_one_with_all_its_fields() -> None:
    prompt = prompts.load("instruct_cir/instruction_b")
    examples = shown_examples(prompt.text, prompt.answer)
    assert len(examples) == 2
    answer = examples[0] | {"modified_caption": "a small blue ball"}
    assert read_reply(json.dumps(answer), "stop", prompt.answer, examples) == answer


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


@given(st.text())
def test_a_text_in_other_quotation_marks_is_the_same(text: str) -> None:
    exact = read_reply(json.dumps({"caption": text}), "stop", FIELDS)
    assert read_reply("{'caption': " + json.dumps(text) + ",}", "stop", FIELDS) == exact
    if not {"'", "\\"} & set(text):
        assert read_reply(f"{{'caption': '{text}'}}", "stop", FIELDS) == exact


@pytest.mark.parametrize("unit", ["```{", "{", '{"{":', "{'a': '{', "])
def test_of_a_hostile_answer_the_end_is_searched_only(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is an object, searching takes quadratic time."""
    searched: list[int] = []
    objects = replies._objects
    monkeypatch.setattr(replies, "_objects", lambda raw: searched.append(len(raw)) or objects(raw))
    assert isinstance(read_reply(unit * (180_000 // len(unit)), "stop", FIELDS), Rejected)
    assert 0 < max(searched) <= 20_000
