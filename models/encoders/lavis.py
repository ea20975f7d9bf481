"""LAVIS's files of BLIP-2's first stage, renamed to Hugging Face's names.

LAVIS publishes two files for a model: the Q-Former's (`blip2_pretrained.pth`, `blip2_pretrained_vitL.pth`), without
the vision tower because that was frozen, and the tower's (`eva_vit_g.pth`, `clip_vit_L.pth`). A fine-tuned model
(`blip2_finetune_coco.pth`) holds both in one. Every weight either has a place or is on a list of those that may be
left out; any other is refused by name, because LAVIS itself loads with strict=False and would not notice.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Blip2Config

from models.encoders.towers import model_class

Weights = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]
TowerName = Literal["eva", "clip"]
# Where the vocabulary comes from, if no vocab.txt lies beside the weights.
BERT = "google-bert/bert-base-uncased"


@dataclass(frozen=True)
class Sizes:
    """What the shapes of the weights do not say.

    Attributes:
        heads: of the tower's attention.
        blocks: how many of the tower's blocks are used; its file holds more.
        qformer_heads: of the Q-Former's attention.
    """

    heads: int
    blocks: int
    qformer_heads: int = 12


# create_eva_vit_g: depth 39, 1408 // 88 heads; eva_vit_g.pth holds 40 blocks. create_clip_vit_L: LAVIS asks for 22
# layers and its Transformer builds one fewer, so that 21 of the 23 blocks of clip_vit_L.pth are used, although the
# paper speaks of the last but one layer of 24 (salesforce/LAVIS issues 216, 609).
PUBLISHED: Mapping[TowerName, Sizes] = {"eva": Sizes(heads=16, blocks=39), "clip": Sizes(heads=16, blocks=21)}

_QFORMER: Rules = (
    (r"query_tokens", "query_tokens"),
    (r"Qformer\.bert\.embeddings\.(word|position)_embeddings\.weight", r"embeddings.\1_embeddings.weight"),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"Qformer\.bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.self\.",
     r"qformer.encoder.layer.\1.\2.attention."),
    (r"Qformer\.bert\.encoder\.", "qformer.encoder."),
    (r"ln_vision\.", "vision_model.post_layernorm."),
    (r"vision_proj\.", "vision_projection."),
    (r"text_proj\.", "text_projection."),
    (r"itm_head\.", "itm_head."),
)  # fmt: skip
_EVA: Rules = (
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)
_CLIP: Rules = (
    (r"class_embedding", "embeddings.class_embedding"),
    (r"positional_embedding", "embeddings.position_embedding.weight"),
    (r"conv1\.", "embeddings.patch_embedding."),
    (r"ln_pre\.", "pre_layrnorm."),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"transformer\.resblocks\.(\d+)\.attn\.(q|k|v|out)_proj", r"encoder.layers.\1.self_attn.\2_proj"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
)
_TOWER_RULES: Mapping[TowerName, Rules] = {"eva": _EVA, "clip": _CLIP}
_BLOCK: Mapping[TowerName, str] = {"eva": r"blocks\.(\d+)\.", "clip": r"transformer\.resblocks\.(\d+)\."}

# May be there and are left out: the language-model head, constants, and what follows a tower in its own training.
UNUSED: Mapping[str, str] = {
    "qformer": r"Qformer\.cls\..*|.*position_ids",
    "eva": r"(norm|fc_norm|head)\..*|mask_token",
    "clip": r"ln_post\..*|proj",
}


def convert(
    qformer: Mapping[str, Tensor], tower: Mapping[str, Tensor] | None, sizes: Mapping[TowerName, Sizes] = PUBLISHED
) -> tuple[Any, float | None]:
    """Build the Hugging Face model of LAVIS's weights.

    Args:
        qformer: the "model" of the Q-Former's file; a tower in it (`visual_encoder.*`) goes before the other.
        tower: the tower's file, or None.
        sizes: of the two towers.

    Returns:
        The model, each weight in the precision it had, and the temperature, if there is one.

    Raises:
        ValueError: naming weights that are missing, unknown or misshapen, or if there is no tower.
    """
    rest = dict(qformer)
    temperature = rest.pop("temp", None)  # missing: LAVIS's start, 0.07
    prefix = "visual_encoder."
    inside = {name.removeprefix(prefix): rest.pop(name) for name in list(rest) if name.startswith(prefix)}
    vision = {**(tower or {}), **inside}
    if not vision:
        raise ValueError(
            "the Q-Former's file holds no vision tower; give the tower's file too, as 'blip2_pretrained.pth+"
            "eva_vit_g.pth' or 'blip2_pretrained_vitL.pth+clip_vit_L.pth'"
        )
    kind = _tower_kind(vision)
    size = sizes[kind]
    renamed = _rename(rest, _QFORMER, UNUSED["qformer"], "the Q-Former's file")
    config = _configuration(rest, vision, kind, size)
    used = _used_blocks(vision, _BLOCK[kind], size.blocks)
    split = _split_attention(used, kind)
    for name, weight in _rename(split, _TOWER_RULES[kind], UNUSED[kind], "the tower's file").items():
        renamed[f"vision_model.{name}"] = weight
    renamed.update(_eva_biases(used) if kind == "eva" else {})
    with torch.device("meta"):
        model = model_class(config)(config)
    _compare(renamed, {name: weight.shape for name, weight in model.state_dict().items()})
    model.load_state_dict(renamed, assign=True)
    for module in model.modules():  # the only buffers, and in no file
        if "position_ids" in module._buffers:
            module.position_ids = torch.arange(module.position_ids.shape[-1]).unsqueeze(0)
    return model, None if temperature is None else float(temperature)


def read_file(path: Path) -> Weights:
    """The weights of a .pth file, in whatever of LAVIS's wrappings.

    Raises:
        ValueError: if it is no file of weights, or holds objects beside them.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights of PyTorch ({type(error).__name__}: {error})") from error
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found = found["model"]
    if not isinstance(found, Mapping) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise ValueError(f"{path} holds no table of weights; expected one of LAVIS's files of BLIP-2")
    return dict(found)


def _tower_kind(vision: Mapping[str, Tensor]) -> TowerName:
    for kind, sign in (("eva", "patch_embed.proj.weight"), ("clip", "conv1.weight")):
        if sign in vision:
            return kind  # type: ignore[return-value]
    raise ValueError(
        f"the tower's file holds neither patch_embed.proj.weight, as EVA's, nor conv1.weight, as CLIP's, but"
        f" {_some(sorted(vision))}"
    )


def _rename(weights: Mapping[str, Tensor], rules: Rules, unused: str, where: str) -> Weights:
    renamed: Weights = {}
    unknown: list[str] = []
    for name, weight in weights.items():
        if re.fullmatch(unused, name):
            continue
        new = next((re.sub(rule, to, name, count=1) for rule, to in rules if re.match(rule, name)), None)
        if new is None:
            unknown.append(name)
        else:
            renamed[new] = weight
    if unknown:
        raise ValueError(
            f"{where} holds {len(unknown)} weights that a BLIP-2 retriever has no place for: {_some(unknown)}"
        )
    return renamed


def _used_blocks(vision: Mapping[str, Tensor], pattern: str, blocks: int) -> Weights:
    """The tower without the blocks that BLIP-2 leaves out at its end."""
    return {
        name: weight
        for name, weight in vision.items()
        if (found := re.match(pattern, name)) is None or int(found[1]) < blocks
    }


def _split_attention(vision: Weights, kind: TowerName) -> Weights:
    """EVA without the halves of its attention's bias, which `_eva_biases` joins; CLIP's joint projection in three."""
    split: Weights = {}
    for name, weight in vision.items():
        if kind == "eva" and re.search(r"\.attn\.[qv]_bias$", name):
            continue
        if kind == "clip" and (found := re.fullmatch(r"(.*\.attn\.)in_proj_(weight|bias)", name)):
            for part, piece in zip("qkv", weight.chunk(3), strict=True):
                split[f"{found[1]}{part}_proj.{found[2]}"] = piece.contiguous()
        else:
            split[name] = weight
    return split


def _eva_biases(vision: Weights) -> Weights:
    """EVA's attention has no bias of keys; Hugging Face's joint bias has zeros in its place."""
    joint: Weights = {}
    for name, query in vision.items():
        if found := re.fullmatch(r"blocks\.(\d+)\.attn\.q_bias", name):
            value = vision.get(name.replace("q_bias", "v_bias"), torch.empty(0))
            bias = torch.cat([query, torch.zeros_like(query), value.to(query)])
            joint[f"vision_model.encoder.layers.{found[1]}.self_attn.qkv.bias"] = bias
    return joint


def _configuration(qformer: Weights, vision: Weights, kind: TowerName, size: Sizes) -> Blip2Config:
    """The sizes that the shapes say, with LAVIS's constants."""
    eva = kind == "eva"
    signs = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight") if eva else (
        "conv1.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight")  # fmt: skip
    patches, positions, wide = (_shape(vision, name, "the tower's file") for name in signs)
    layer = "Qformer.bert.encoder.layer."
    numbers = {int(name.removeprefix(layer).split(".")[0]) for name in qformer if name.startswith(layer)}
    crossing = sorted(number for number in numbers if f"{layer}{number}.crossattention.self.query.weight" in qformer)
    where = "the Q-Former's file"
    words = _shape(qformer, "Qformer.bert.embeddings.word_embeddings.weight", where)
    return Blip2Config(
        vision_config={
            "tower": kind, "hidden_size": patches[0], "patch_size": patches[-1], "num_hidden_layers": size.blocks,
            "num_attention_heads": size.heads, "intermediate_size": wide[0],
            "image_size": math.isqrt(positions[-2] - 1) * patches[-1], "hidden_act": "gelu" if eva else "quick_gelu",
            "layer_norm_eps": 1e-6 if eva else 1e-5, "post_layer_norm_eps": 1e-5,
        },
        qformer_config={
            "vocab_size": words[0], "hidden_size": words[1], "num_hidden_layers": len(numbers),
            "num_attention_heads": size.qformer_heads,
            "intermediate_size": _shape(qformer, f"{layer}0.intermediate.dense.weight", where)[0],
            "max_position_embeddings": _shape(qformer, "Qformer.bert.embeddings.position_embeddings.weight", where)[0],
            "cross_attention_frequency": crossing[1] if len(crossing) > 1 else max(1, len(numbers)),
            "use_qformer_text_input": True,
        },
        num_query_tokens=_shape(qformer, "query_tokens", where)[1],
        image_text_hidden_size=_shape(qformer, "vision_proj.weight", where)[0],
    )  # fmt: skip


def _shape(weights: Weights, name: str, where: str) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"{where} holds no {name}; is it one of LAVIS's files of BLIP-2's first stage, and whole?")
    return tuple(weights[name].shape)


def _compare(found: Weights, wanted: Mapping[str, torch.Size]) -> None:
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise ValueError(f"the files lack {len(missing)} weights of the model: {_some(missing)} (Hugging Face's names)")
    spare = sorted(found.keys() - wanted.keys())
    if spare:
        raise ValueError(f"the files hold {len(spare)} weights more than the model: {_some(spare)}")
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise ValueError(
                f"{name} is of shape {tuple(found[name].shape)} in the files, but {tuple(shape)} is expected;"
                " do the Q-Former's and the tower's file belong together?"
            )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def write_checkpoint(files: Sequence[Path], folder: Path) -> None:
    """Convert LAVIS's files into a folder that `Blip2Encoder.load` reads.

    The vocabulary is bert-base-uncased's with [DEC] behind it, as in LAVIS: from a `vocab.txt` beside the first file,
    else from the Hugging Face hub.

    Args:
        files: the Q-Former's and the tower's, in any order, or one that holds both.
        folder: made if missing.

    Raises:
        ValueError: as `convert` and `read_file` do, if the files are not one of each kind, or if the vocabulary does
            not fit the Q-Former.
    """
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    from models.encoders.blip2 import TEMPERATURE, Blip2Encoder

    read = [read_file(path) for path in files]
    qformers = [weights for weights in read if any(name.startswith("Qformer.") for name in weights)]
    towers = [weights for weights in read if not any(name.startswith("Qformer.") for name in weights)]
    if len(qformers) != 1 or len(towers) > 1:
        raise ValueError(
            f"expected one file with a Q-Former and one with its tower, or one with both, but of"
            f" {', '.join(map(str, files))} {len(qformers)} hold a Q-Former"
        )
    model, temperature = convert(qformers[0], towers[0] if towers else None, PUBLISHED)
    side = model.config.vision_config.image_size
    processor = BlipImageProcessorPil(size={"height": side, "width": side})
    tokenizer = _tokenizer(files[0].with_name("vocab.txt"), model.config.qformer_config.vocab_size)
    Blip2Encoder(model, tokenizer, processor, temperature=temperature or TEMPERATURE).save(folder)


def _tokenizer(file: Path, rows: int) -> Any:
    from transformers import BertTokenizer

    if file.is_file():
        words = file.read_text(encoding="utf-8").splitlines()
        tokenizer = BertTokenizer(vocab={word: row for row, word in enumerate(words)}, do_lower_case=True)
    else:
        try:
            tokenizer = BertTokenizer.from_pretrained(BERT)
        except OSError as error:
            raise ValueError(
                f"LAVIS's files hold no vocabulary, and {BERT} cannot be had ({error}); put its vocab.txt at {file}"
            ) from error
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if len(tokenizer) != rows:
        raise ValueError(
            f"the vocabulary has {len(tokenizer)} words with [DEC], but the Q-Former has embeddings of {rows};"
            f" put bert-base-uncased's vocab.txt at {file}"
        )
    return tokenizer
