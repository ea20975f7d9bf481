"""Run LAVIS's own code on the case of bench/lavis_case.py and write what it computes, with the versions.

    uv run --project bench/lavis-1.0.2 bench/lavis-1.0.2/golden.py

LAVIS's constructors download published weights; here its classes are built from small configurations instead, and
given random weights. All that is computed, is computed by LAVIS: `Blip2Qformer.forward`, `extract_features`,
`compute_itm`, `BertModel.forward`.
"""

import argparse
import json
import platform
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from lavis.models import clip_vit, eva_vit  # noqa: E402
from lavis.models.blip2_models import blip2_qformer  # noqa: E402
from lavis.models.blip2_models.blip2 import LayerNorm  # noqa: E402
from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel  # noqa: E402
from torch import nn  # noqa: E402

from bench import lavis_case as case  # noqa: E402

DEFAULT = ROOT / "tests" / "models" / "golden" / "lavis.npz"


class Tokens:
    """Stands for the tokenizer: whatever text is asked, the case's ids."""

    bos_token_id, pad_token_id = 4, 0

    def __call__(self, text, **_):
        ids, mask = torch.from_numpy(case.IDS), torch.from_numpy(case.MASK)
        return transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask})


class Small(blip2_qformer.Blip2Qformer):
    """LAVIS's model with everything but its constructor."""

    def __init__(self, tower):
        nn.Module.__init__(self)
        self.tokenizer = Tokens()
        self.max_txt_len = case.IDS.shape[1]
        if tower == "eva":
            self.visual_encoder = eva_vit.VisionTransformer(
                img_size=case.IMAGE, patch_size=case.PATCH, use_mean_pooling=False, embed_dim=case.WIDTH,
                depth=case.BLOCKS["eva"], num_heads=case.HEADS, mlp_ratio=case.MLP_RATIO, qkv_bias=True,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
            )  # fmt: skip
        else:
            # LAVIS builds one block fewer than it is asked for.
            self.visual_encoder = clip_vit.VisionTransformer(
                case.IMAGE, case.PATCH, case.WIDTH, case.BLOCKS["clip"] + 1, case.HEADS, False
            )
        self.ln_vision = LayerNorm(case.WIDTH)
        config = BertConfig(
            vocab_size=case.VOCABULARY, hidden_size=case.HIDDEN, num_hidden_layers=case.LAYERS,
            num_attention_heads=case.HEADS, intermediate_size=case.INTERMEDIATE,
            max_position_embeddings=case.POSITIONS,
        )  # fmt: skip
        config.encoder_width, config.add_cross_attention = case.WIDTH, True
        config.cross_attention_freq, config.query_length = 2, case.QUERIES
        self.Qformer = BertLMHeadModel(config)
        self.query_tokens = nn.Parameter(torch.zeros(1, case.QUERIES, case.HIDDEN))
        self.vision_proj = nn.Linear(case.HIDDEN, case.DIM)
        self.text_proj = nn.Linear(case.HIDDEN, case.DIM)
        self.itm_head = nn.Linear(case.HIDDEN, 2)
        self.temp = nn.Parameter(0.07 * torch.ones([]))


def build(tower):
    """The model with the case's weights, and the shapes of these by name."""
    model = Small(tower).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for constant in ("temp", "Qformer.cls.predictions.decoder.weight", "Qformer.cls.predictions.decoder.bias"):
        del shapes[constant]  # the language-model head reads the word embeddings once more
    drawn = {name: torch.from_numpy(weights) for name, weights in case.random_weights(shapes).items()}
    report = model.load_state_dict(drawn, strict=False)
    assert not report.unexpected_keys, report
    return model, shapes


def contrast(model, samples):
    """LAVIS's own image-text loss, and the same without its label smoothing: from the logits that it made."""
    real, seen = blip2_qformer.F.cross_entropy, []

    def spy(logits, targets, **options):
        seen.append((logits.detach().clone(), targets))
        return real(logits, targets, **options)

    blip2_qformer.F.cross_entropy = spy
    try:
        smoothed = model(samples).loss_itc
    finally:
        blip2_qformer.F.cross_entropy = real
    plain = sum(real(logits, targets) for logits, targets in seen[:2]) / 2
    return {"loss_smoothed": smoothed, "loss": plain, "logits_i2t": seen[0][0], "logits_t2i": seen[1][0]}


def without_image(model, rule):
    """Queries and text through LAVIS's layers with no image, which it refuses: with the one change that `rule` says."""
    bert = model.Qformer.bert
    ids, mask = torch.from_numpy(case.IDS), torch.from_numpy(case.MASK)
    queries = model.query_tokens.expand(len(ids), -1, -1)
    mask = torch.cat([torch.ones(len(ids), case.QUERIES, dtype=torch.long), mask], dim=1)
    forward, crossing = bert.encoder.forward, [layer.has_cross_attention for layer in bert.encoder.layer]
    if rule == "query_ffn":
        for layer in bert.encoder.layer:
            layer.has_cross_attention = False
    else:  # no token is taken for a query
        bert.encoder.forward = lambda *args, **options: forward(*args, **{**options, "query_length": 0})
    try:
        return bert(ids, query_embeds=queries, attention_mask=mask, return_dict=True).last_hidden_state[
            :, : case.QUERIES
        ]
    finally:
        bert.encoder.forward = forward
        for layer, crosses in zip(bert.encoder.layer, crossing, strict=True):
            layer.has_cross_attention = crosses


@torch.no_grad()
def outputs(tower):
    model, shapes = build(tower)
    samples = {"image": torch.from_numpy(case.pixels()), "text_input": ["one", "two", "three"]}
    _, vision = model.forward_image(samples["image"])

    def project(hidden):
        return nn.functional.normalize(model.vision_proj(hidden), dim=-1)

    found = {
        "vision": vision,
        "image": model.extract_features(samples, "image").image_embeds_proj,
        "text": model.extract_features(samples, "text").text_embeds_proj[:, 0],
        "composed": project(model.extract_features(samples, "multimodal").multimodal_embeds),
        "matching": model.compute_itm(vision, torch.from_numpy(case.IDS), torch.from_numpy(case.MASK)),
        "query_ffn": project(without_image(model, "query_ffn")),
        "text_ffn": project(without_image(model, "text_ffn")),
        **contrast(model, samples),
    }
    arrays = {f"{tower}/{name}": tensor.numpy() for name, tensor in found.items()}
    return {**arrays, f"{tower}/shapes": np.array(json.dumps(shapes))}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", nargs="?", type=Path, default=DEFAULT)
    out = parser.parse_args(arguments).out
    with tempfile.TemporaryDirectory() as folder:  # LAVIS's loss asks for its rank
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        arrays = {name: array for tower in case.TOWERS for name, array in outputs(tower).items()}
        torch.distributed.destroy_process_group()
    versions = {name: version(name) for name in ("salesforce-lavis", "torch", "transformers", "timm", "numpy")}
    versions["python"] = platform.python_version()
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, versions=json.dumps(versions), **arrays)
    print(f"{out}: {len(arrays)} arrays, {out.stat().st_size} bytes, {versions}")


if __name__ == "__main__":
    main(sys.argv[1:])
