"""Every shipped prompt, rendered whole in every style, is the text in tests/golden/prompts.txt.

After a prompt was changed on purpose: `python -m tests.test_golden_prompts`, then read the difference.
"""

from pathlib import Path

import prompts

GOLDEN = Path(__file__).parent / "golden" / "prompts.txt"
FIELDS = {
    "caption": "a small red mug on a white table",
    "reference_caption": "a small red mug on a white table",
    "target_caption": 'a large mug with the word "tea" on a white table',
    "modification": "make the mug blue; keep {{this}}",
    "edit_type": "colour",
    "condition": "colour",
}


def rendered() -> str:
    parts = []
    for name in [*prompts.names(), *(f"genecis/{task}" for task in _genecis())]:
        prompt = prompts.load(name)
        styles = prompts.styles() if "style" in prompt.placeholders else [""]
        for style in styles:
            phrase = {"style": prompts.load(f"styles/{style}").text} if style else {}
            fields = {field: (FIELDS | phrase)[field] for field in prompt.placeholders}
            title = f"{name} ({style})" if style else name
            facts = f"{prompt.images} images, answer: {', '.join(prompt.answer) or 'none'}"
            parts.append(f"=== {title}: {facts}\n{prompt.render(**fields)}\n")
    return "\n".join(parts)


def _genecis() -> list[str]:
    return sorted(path.stem for path in (prompts.FOLDER / "genecis").glob("*.md"))


def test_every_rendered_prompt_is_as_it_was() -> None:
    assert rendered() == GOLDEN.read_text(encoding="utf-8")


def test_the_golden_text_has_every_prompt_and_style() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    for name in prompts.names():
        assert f"=== {name}" in text
    for style in prompts.styles():
        assert f"=== mra_cir/modification ({style})" in text
        assert prompts.load(f"styles/{style}").text in text


if __name__ == "__main__":
    GOLDEN.write_text(rendered(), encoding="utf-8")
