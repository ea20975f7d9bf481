"""How far our passes are from LAVIS's and from Hugging Face's on the same random weights and inputs.

    python -m bench.parity [--json]

LAVIS's side was computed by LAVIS itself in its own environment and is read from a file; to write it anew:

    uv run --project bench/lavis-1.0.2 bench/lavis-1.0.2/golden.py
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench import lavis_case as case
from models.encoders.blip2 import Blip2Encoder
from models.encoders.lavis import Sizes, TowerName, convert
from models.encoders.towers import set_post_norm
from models.losses import info_nce

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "models" / "golden" / "lavis.npz"
COMMAND = "uv run --project bench/lavis-1.0.2 bench/lavis-1.0.2/golden.py"
SIZES: dict[TowerName, Sizes] = {
    "eva": Sizes(case.HEADS, case.BLOCKS["eva"], case.HEADS),
    "clip": Sizes(case.HEADS, case.BLOCKS["clip"], case.HEADS),
}
TEMPERATURE = 0.07


def golden() -> dict[str, Any]:
    """What LAVIS computed. Missing, it is an error: nothing else proves that the real weights are read rightly."""
    if not GOLDEN.is_file():
        raise FileNotFoundError(f"{GOLDEN} is missing; write it with: {COMMAND}")
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def theirs(tower: TowerName) -> dict[str, Tensor]:
    """LAVIS's outputs for one tower, by name."""
    found = golden()
    names = [name for name in found if name.startswith(f"{tower}/") and name != f"{tower}/shapes"]
    return {name.removeprefix(f"{tower}/"): torch.from_numpy(found[name]) for name in names}


def lavis_weights(tower: TowerName) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The Q-Former's file and the tower's, by LAVIS's names, with the weights that may be there and are not used."""
    shapes = {name: tuple(shape) for name, shape in json.loads(str(golden()[f"{tower}/shapes"])).items()}
    drawn = {name: torch.from_numpy(weights) for name, weights in case.random_weights(shapes).items()}
    prefix = "visual_encoder."
    vision = {name.removeprefix(prefix): weight for name, weight in drawn.items() if name.startswith(prefix)}
    qformer = {name: weight for name, weight in drawn.items() if not name.startswith(prefix)}
    qformer["temp"] = torch.tensor(TEMPERATURE)
    qformer["Qformer.bert.embeddings.position_ids"] = torch.arange(case.POSITIONS).unsqueeze(0)
    block = "blocks." if tower == "eva" else "transformer.resblocks."
    vision |= {
        name.replace(f"{block}0.", f"{block}{case.BLOCKS[tower]}."): weight + 1
        for name, weight in vision.items()
        if name.startswith(f"{block}0.")
    }
    vision |= {"norm.weight": torch.ones(1)} if tower == "eva" else {"ln_post.weight": torch.ones(1)}
    return qformer, vision


class CaseEncoder(Blip2Encoder):
    """Reads the case's token ids, whatever the texts."""

    rows = slice(None)

    def tokenize(self, texts: Any) -> tuple[Tensor, Tensor]:
        """The case's ids and mask."""
        return torch.from_numpy(case.IDS)[self.rows], torch.from_numpy(case.MASK)[self.rows].bool()


def case_encoder(tower: TowerName) -> CaseEncoder:
    """Our encoder with the case's weights, read from LAVIS's names."""
    model, temperature = convert(*lavis_weights(tower), SIZES)
    set_post_norm(model)
    return CaseEncoder(model, None, None, temperature=temperature or TEMPERATURE).eval()


@torch.no_grad()
def ours(encoder: CaseEncoder, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Our outputs for some of the case's rows, by the names of LAVIS's."""
    encoder.rows = rows
    texts = ["a", "b", "c"][rows]
    vision = encoder.vision_of(torch.from_numpy(case.pixels())[rows])
    found = {
        "vision": vision,
        "image": encoder.image_tokens(vision).tokens,
        "text": encoder.text_tokens(texts).tokens[:, 0],
        "composed": encoder.query_tokens(vision, texts).tokens,
        "query_ffn": encoder.text_tokens(texts, "query_ffn").tokens,
        "text_ffn": encoder.text_tokens(texts, "text_ffn").tokens,
    }
    encoder.rows = slice(None)
    return found


@torch.no_grad()
def hugging_faces(encoder: CaseEncoder) -> dict[str, Tensor]:
    """What Hugging Face's own forward gives for the case, as far as it goes."""
    model, seen = encoder.model, []
    handle = model.itm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    inputs = {
        "pixel_values": torch.from_numpy(case.pixels()),
        "input_ids": torch.from_numpy(case.IDS),
        "attention_mask": torch.from_numpy(case.MASK),
    }
    contrast = model(**inputs)
    model(**inputs, use_image_text_matching_head=True)
    handle.remove()
    return {
        "vision": contrast.vision_model_output.last_hidden_state,
        "image": contrast.image_embeds,
        "text": contrast.text_embeds,
        "composed": functional.normalize(model.vision_projection(seen[0]), dim=-1),
    }


def loss(found: Mapping[str, Tensor]) -> Tensor:
    """Our loss where LAVIS's image-text contrast defines the same: texts to images, both directions."""
    return info_nce(found["text"].unsqueeze(1), found["image"], TEMPERATURE, directions="both")


def differences() -> dict[str, dict[str, float]]:
    """Greatest absolute difference of each output, per tower and side."""
    table: dict[str, dict[str, float]] = {}
    for tower in case.TOWERS:
        encoder = case_encoder(tower)
        found = ours(encoder)
        for side, other in (("LAVIS", theirs(tower)), ("Hugging Face", hugging_faces(encoder))):
            both = {name: (tokens, other[name]) for name, tokens in found.items() if name in other}
            if "loss" in other:
                both["loss"] = (loss(found), other["loss"])
            table[f"{tower}, {side}"] = {name: float((a - b).abs().max()) for name, (a, b) in both.items()}
    return table


def main(arguments: Sequence[str]) -> None:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.parity", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    table = differences()
    if parser.parse_args(arguments).json:
        print(json.dumps({"max_absolute_difference": table, "lavis": json.loads(str(golden()["versions"]))}))
        return
    names = list(next(iter(table.values())))
    print(f"| tower, compared with | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for row, values in table.items():
        cells = (f"{values[name]:.1e}" if name in values else "-" for name in names)
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
