"""LAVIS's files of a small BLIP-2 with random weights: those whose outputs LAVIS itself wrote down."""

from pathlib import Path

import torch

from bench import lavis_case as case
from bench.parity import lavis_weights
from models.encoders.lavis import TowerName


def write_files(folder: Path, tower: TowerName) -> list[Path]:
    """Both files and a vocabulary of the case's size."""
    folder.mkdir(parents=True, exist_ok=True)
    qformer, vision = lavis_weights(tower)
    torch.save({"model": qformer, "epoch": 9}, folder / "blip2.pth")
    torch.save(vision, folder / "tower.pth")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{row}" for row in range(5, case.VOCABULARY - 1))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return [folder / "blip2.pth", folder / "tower.pth"]
