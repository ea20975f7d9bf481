"""The studies: what their tables compare, and which windows they lay beside each other."""

from pathlib import Path

import pytest

from data.windows import Window
from flows.mra_cir_ablations import MraCirAblations
from flows.mra_cir_ablations import variants as parts
from flows.mra_cir_windows import MraCirWindows, swept
from flows.mvft_ji import MvftJi
from flows.mvft_ji_ablations import variants
from flows.overrides import configure
from tests.tasks.small_artifacts import sealed


def test_the_table_of_mvft_ji_has_all_six_ablations() -> None:
    without, with_other = variants(None), variants("weaker")
    assert [one.label for one in without] == [one.label for one in with_other]
    assert len(without) == 8  # whole, six ablations, and one that the paper does not have
    assert [one.label for one in without if one.source is None] == ["another MLLM"]
    assert "set other.model" in next(one.note for one in without if one.source is None)
    assert all(one.source is not None for one in with_other)
    assert {one.method for one in without if one.source == "full"} == {"joint", "composed", "target_text_trained"}
    assert without[0].paper == {"FashionIQ R@10": 34.84, "CIRCO mAP@5": 21.69, "CIRR R@1": 39.30}


def test_the_texts_of_queries_come_from_the_model_that_writes_the_data() -> None:
    config = configure(MvftJi, ["generate.sampling.temperature=0.5", "evaluate.benchmarks=tiny_multi"])
    assert config.train.losses == ("composed_text", "caption_image")
    asked = config.query_texts.config(config.generate, config.evaluate)
    assert asked.benchmarks == ("tiny_multi",)
    assert (asked.writer.model, asked.writer.prompt) == ("tiny_llava", "mvft_ji/target_text")
    assert asked.writer.sampling.temperature == 0.5
    other = configure(MvftJi, ["query_texts.prompt=mvft_ji/target_text_b", "query_texts.model=elsewhere"])
    asked = other.query_texts.config(other.generate, other.evaluate)
    assert (asked.writer.model, asked.writer.prompt) == ("elsewhere", "mvft_ji/target_text_b")


def test_windows_are_swept_by_rank_and_by_percentile(tmp_path: Path) -> None:
    ranking = sealed(tmp_path / "rank", "rank", 4000, config={"depth": 100})
    found = swept(MraCirWindows(by=("percentile", "rank")), ranking)
    assert [str(window) for _, window in found[:2]] == ["ranks 51 to 60", "ranks 1 to 1"]
    # Ranks 51 to 60 of 10,000 images are the percentiles above 0.5 up to 0.6: of 3,999 candidates the ranks 20 to 23.
    assert found[5] == ("percentiles 0.5 to 0.6", Window(by="percentile", low=0.5, high=0.6))
    assert found[5][1].ranks(3999) == range(20, 24)
    with pytest.raises(ValueError, match="hold no rank"):
        found[6][1].ranks(3999)  # the nearest of 10,000


def test_the_parts_of_mra_cir_are_rows_beside_what_needs_no_training() -> None:
    found = parts(MraCirAblations())
    assert [one.label for one in found] == [
        *("full", "pooled", "slots", "hard negatives", "no captions"), *("image_only", "text_only", "image_text"),
    ]  # fmt: skip
    assert all(one.method == "composed" for one in found[:5])
