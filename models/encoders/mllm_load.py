"""An MLLM that embeds, from a checkpoint: one of Cirque's, or a model as it was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from models.encoders.files import loading, side_facts
from models.encoders.mllm import TEMPERATURE, MllmEncoder
from models.encoders.mllm_families import FAMILIES
from models.encoders.mllm_text import BARE, Templates
from models.encoders.placement import DTYPES, resolve_device, resolve_dtype
from models.encoders.remote_code import load_remote, published_config


def load_mllm(
    source: str | Path,
    *,
    revision: str | None = None,
    digest: str = "",
    device: str = "auto",
    dtype: str = "auto",
    max_text_tokens: int | None = None,
) -> MllmEncoder:
    """Load a folder or a Hugging Face id, in evaluation mode; arguments as of `Blip2Encoder.load`.

    The tower has the asked dtype; on a GPU the rest keeps the numbers that it was published in (bfloat16 of most), on a
    CPU it is float32.

    Raises:
        ValueError: if weights are missing or misshapen, or the model is of no family that can embed.
        PermissionError: if it runs only with code of its own, and the user has not allowed that.
    """
    place, source = resolve_device(device), str(source)
    kind = published_config(source, revision).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{source} is of type {kind!r}; MLLMs that embed are {', '.join(FAMILIES)}")
    numbers = torch.float32 if place.type == "cpu" else "auto"
    with loading():
        load = load_remote if kind == "phi3_v" else _native
        model, report, tokenizer, image_processor = load(source, revision, numbers)
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise ValueError(f"{source} is no whole {kind}: it lacks {len(wrong)} weights, as {wrong[0]}")
    facts = side_facts(source)
    encoder = MllmEncoder(
        model.to(place),
        tokenizer,
        image_processor,
        temperature=facts.get("temperature", TEMPERATURE),
        max_text_tokens=max_text_tokens or facts.get("max_text_tokens"),
        templates=Templates(**facts["templates"]) if "templates" in facts else BARE,
        resolution=facts.get("resolution", "fixed"),
        image_tokens=facts.get("image_tokens"),
        digest=digest,
    )
    for weight in encoder.weights_of("tower"):
        weight.data = weight.data.to(DTYPES[resolve_dtype(dtype, place)])
    return encoder.to(place).eval()


def _native(source: str, revision: str | None, numbers: torch.dtype | str) -> tuple[Any, dict[str, Any], Any, Any]:
    """A model of transformers' own classes, the report of its loading, its tokenizer and its image processor."""
    kind = published_config(source, revision)["model_type"]
    auto = AutoModelForCausalLM if kind == "phi4_multimodal" else AutoModelForImageTextToText
    model, report = auto.from_pretrained(source, revision=revision, output_loading_info=True, dtype=numbers)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    return model, report, tokenizer, AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
