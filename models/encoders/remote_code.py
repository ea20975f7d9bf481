"""A model that runs only with code of its checkpoint: run if the user named that checkpoint, on this machine.

No file of a checkpoint gives the consent. What is saved of such a model says where its code is from, and holds none.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, CLIPImageProcessorPil, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.image_processing_base import ImageProcessingMixin

from models.checkpoints import resolve

TRUSTED = "CIRQUE_TRUST_REMOTE_CODE"
# What stands for an image in Phi-3's vocabulary (`special_image_token` of its processor).
IMAGE_TOKEN = "<|image|>"
# [checkpoint--]file.Class
REFERENCE = re.compile(r"(?:(.+)--)?(\w+\.\w+)")
KINDS = ("AutoConfig", "AutoModelForCausalLM")


def published_config(source: str, revision: str | None) -> dict[str, Any]:
    """What is in the config.json of a folder or id, read without any code of the checkpoint."""
    found: dict[str, Any] = PreTrainedConfig.get_config_dict(source, revision=revision)[0]
    return found


def load_remote(
    source: str, revision: str | None, numbers: torch.dtype | str
) -> tuple[Any, dict[str, Any], Any, CLIPImageProcessorPil]:
    """A Phi-3-vision with its own code: model, report of its loading, tokenizer, and what normalises its images.

    Args:
        source: a folder, or an id with the commit `revision`.
        numbers: dtype of the weights; "auto" as they were published.

    Raises:
        PermissionError: if the user has not allowed that code to run.
        ValueError: if there is no such code, it does not run here, or the files beside it lack something.
    """
    published = published_config(source, revision)
    origin, code_revision = trusted_code(source, revision, published)
    names = {kind: published["auto_map"][kind].rpartition("--")[2] for kind in KINDS}
    try:
        made, model_class = (
            get_class_from_dynamic_module(names[kind], origin, revision=code_revision) for kind in KINDS
        )
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the code of {origin} does not run with transformers {transformers.__version__}: {error}"
        ) from error
    # The list that transformers 4 took makes 5 fail when it saves; and one table of words hangs in two places.
    model_class._tied_weights_keys = {"model.vision_embed_tokens.wte.weight": "model.embed_tokens.weight"}
    config = made.from_pretrained(source, revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, config=config, trust_remote_code=False)
    config.image_token_id = tokenizer.get_vocab().get(IMAGE_TOKEN)
    if config.image_token_id is None:
        raise ValueError(f"the tokenizer of {source} has no {IMAGE_TOKEN}; it stands for an image")
    # Its attention is chosen here once; what it was published with, flash_attention_2, needs a package of its own.
    model, report = model_class.from_pretrained(
        source, config=config, revision=revision, output_loading_info=True, dtype=numbers, attn_implementation="eager"
    )
    # Not what transformers makes of it: the code may refuse that, or take it for something else.
    model.published_config = published | {
        "auto_map": {kind: f"{origin}--{name}" for kind, name in names.items()},
        "code_revision": code_revision,
        **dict.fromkeys(("dtype", "torch_dtype"), str(model.dtype).removeprefix("torch.")),
    }
    side = int(model.model.vision_embed_tokens.img_processor.config.image_size)
    return model, report, tokenizer, _image_processor(source, revision, {"height": side, "width": side})


def trusted_code(source: str, revision: str | None, published: dict[str, Any]) -> tuple[str, str | None]:
    """Where the code of a checkpoint is from: a folder, or an id and its commit; its arguments as of `load_remote`.

    Raises:
        PermissionError, ValueError: as of `load_remote`.
    """
    named = published.get("auto_map") or {}
    found = [REFERENCE.fullmatch(str(named.get(kind))) for kind in KINDS]
    origins = {one[1] or source for one in found if one}
    if None in found or len(origins) != 1:
        raise ValueError(
            f"{source} is of type {published['model_type']!r}, which needs code of its own; the auto_map of its"
            f" config.json has to name {' and '.join(KINDS)} of one checkpoint, but is {named or 'not there'}"
        )
    origin = origins.pop()
    local = Path(origin).is_dir()
    wanted = None if local else revision if origin == source else published.get("code_revision")
    given = [name.strip() for name in os.environ.get(TRUSTED, "").split(",") if name.strip()]
    for name in given:
        if local and Path(name).expanduser().resolve() == Path(origin).resolve():
            return str(Path(origin).resolve()), None
        if not local and name.partition("@")[0] == origin:
            # The commit comes from what the user named: anybody may file one with a hub, and write it into a file.
            commit = resolve(name).revision
            if wanted in (None, commit):
                return origin, commit
    exact = origin if wanted is None else f"{origin}@{wanted}"
    raise PermissionError(
        f"{source} is of type {published['model_type']!r}, which runs only with code of its own, the Python files of"
        f" {exact}. Code of a checkpoint can do on this machine whatever you can: read it first. If you trust it, set"
        f" {TRUSTED}={','.join([*given, exact])}"
    )


def _image_processor(source: str, revision: str | None, size: dict[str, int]) -> CLIPImageProcessorPil:
    """Its mean and deviation; the checkpoint's own image processor is code too, and is not run."""
    found, _ = ImageProcessingMixin.get_image_processor_dict(source, revision=revision)
    if "image_mean" not in found or "image_std" not in found:
        raise ValueError(f"the preprocessor_config.json of {source} lacks image_mean or image_std")
    kept = {name: found[name] for name in ("image_mean", "image_std")}
    return CLIPImageProcessorPil(size=size, do_center_crop=False, crop_size=size, **kept)
