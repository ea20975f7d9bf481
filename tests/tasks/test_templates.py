"""What an MLLM is told: the sets, the benchmarks' own words, and whom they concern."""

from pathlib import Path

import pytest

import prompts
from tasks.templates import (
    benchmark_templates,
    template_digests,
    template_names,
    template_sets,
    worded_for,
    wording_facts,
)
from tests.models.tiny_mllms import encoder


def test_every_set_has_an_image_a_caption_and_a_query() -> None:
    sets = template_sets()
    assert len(sets) == len(template_names()) >= 5
    assert all(len({getattr(one, kind) for one in sets}) == len(sets) for kind in ("image", "caption", "query"))
    assert len(template_digests()) == 3 * len(sets)


def test_a_set_with_a_gap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("image/1", "image/2", "caption/1", "query/1"):
        path = tmp_path / "instruct_cir" / "templates" / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("words")
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    with pytest.raises(LookupError, match=r"need files of the same names, found .*'image': \['1', '2'\]"):
        template_names()


def test_the_benchmarks_have_words_of_their_own_and_the_tiny_world_has_none() -> None:
    for name in ("cirr", "circo", "fashioniq", "genecis"):
        assert benchmark_templates(name) is not None
    assert benchmark_templates("tiny_single") is None
    facts = wording_facts(("tiny_single", "cirr"))
    assert list(facts["templates"]) == [f"instruct_cir/templates/cirr/{kind}" for kind in ("image", "caption", "query")]
    assert wording_facts(("tiny_single",)) == {}


def test_only_an_mllm_is_told_anything() -> None:
    assert worded_for(object(), "cirr") == {}
    one = encoder("llava")
    own = one.templates
    assert worded_for(one, "fashioniq") == {"templates": "instruct_cir/templates/fashioniq"}
    assert "garment" in one.templates.query
    assert worded_for(one, "tiny_multi") == {}
    assert one.templates == own
