"""Models are loaded one at a time, whatever the number of threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from models.encoders import load_encoder
from tests.models.tiny_llava import tiny_llava_folder


def test_threads_that_load_at_once_leave_transformers_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, own, inside = str(tiny_llava_folder(tmp_path)), PreTrainedModel.tie_weights, list[str]()
    make = LlavaForConditionalGeneration.__init__

    def slow(self: LlavaForConditionalGeneration, *args: object) -> None:
        inside.append("enters")
        make(self, *args)
        inside.append("leaves")

    monkeypatch.setattr(LlavaForConditionalGeneration, "__init__", slow)
    with ThreadPoolExecutor(3) as pool:
        digests = {encoder.digest for encoder in pool.map(load_encoder, [folder] * 6, ["cpu"] * 6)}
    assert len(digests) == 1
    assert inside == ["enters", "leaves"] * 6
    assert PreTrainedModel.tie_weights is own
