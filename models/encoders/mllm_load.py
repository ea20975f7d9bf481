"""An MLLM that embeds, from a checkpoint: one of Cirque's, or a model as it was published."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
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
    """
    place, source = resolve_device(device), str(source)
    config = AutoConfig.from_pretrained(source, revision=revision)
    if config.model_type not in FAMILIES:
        raise ValueError(f"{source} is of type {config.model_type!r}; MLLMs that embed are {', '.join(FAMILIES)}")
    auto = AutoModelForCausalLM if config.model_type == "phi4_multimodal" else AutoModelForImageTextToText
    numbers = torch.float32 if place.type == "cpu" else "auto"
    with loading():
        model, report = auto.from_pretrained(source, revision=revision, output_loading_info=True, dtype=numbers)
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise ValueError(f"{source} is no whole {config.model_type}: it lacks {len(wrong)} weights, as {wrong[0]}")
    facts = side_facts(source)
    encoder = MllmEncoder(
        model.to(place),
        AutoTokenizer.from_pretrained(source, revision=revision),
        AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil"),
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
