"""Train the small MLLM's vision tower to see: to name what stands in each cell of a scene of the tiny world."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from data.artifact import Counts
from data.config import StageConfig
from data.progress import progress
from data.tiny_drawing import draw
from data.tiny_world import BACKGROUNDS, DOMAIN, POSITIONS, Scene, random_scene
from models import tiny
from tasks.stage import stage

GRID = ("shape", "colour", "size", "texture")


class SeeConfig(StageConfig):
    """What decides the vision tower."""

    steps: PositiveInt = 1500
    batch: PositiveInt = 128
    lr: PositiveFloat = 1e-3
    seed: int = 0


def cosine_lr(step: int, steps: int, peak: float, warm_up: int = 200) -> float:
    """Learning rate after linear warm-up and cosine decay to 2 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))))


def adamw(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": 0.05},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


class CellReader(nn.Module):
    """Reads what stands in each of the nine cells from the four patches over it, and the background from all."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.cells = nn.Linear(4 * hidden, sum(len(DOMAIN[name]) + 1 for name in GRID))
        self.background = nn.Linear(hidden, len(BACKGROUNDS))

    def forward(self, patches: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 36, H) patch features -> per attribute (B, 9, values + 1) logits, (B, backgrounds) logits."""
        features = self.norm(patches)
        batch, _, hidden = features.shape
        grid = features.view(batch, 3, 2, 3, 2, hidden).permute(0, 1, 3, 2, 4, 5).reshape(batch, 9, 4 * hidden)
        logits = self.cells(grid).split([len(DOMAIN[name]) + 1 for name in GRID], dim=-1)
        return list(logits), self.background(features.mean(1))


def cell_labels(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Give (B, 9, 4) attribute indices, 0 for an empty cell, and (B,) background indices."""
    cells = torch.zeros(len(scenes), len(POSITIONS), len(GRID), dtype=torch.long)
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            for k, name in enumerate(GRID):
                cells[i, POSITIONS.index(thing.position), k] = 1 + DOMAIN[name].index(getattr(thing, name))
    names = list(BACKGROUNDS)
    return cells, torch.tensor([names.index(scene.background) for scene in scenes])


def drawn(scenes: Sequence[Scene]) -> Tensor:
    """Draw scenes as normalised (B, 3, 96, 96) pixels."""
    return tiny.normalise(torch.from_numpy(np.stack([draw(scene) for scene in scenes])))


@stage(version=1)
def see(out: Path, config: SeeConfig) -> Counts:
    """Train a CLIP vision tower to tell what stands in each cell of a scene."""
    torch.manual_seed(config.seed)
    rng = random.Random(f"see/{config.seed}")
    tower = tiny.tower()
    tower.set_attn_implementation("eager")  # on a CPU, for 37 patches, twice as fast as the fused attention
    reader = CellReader(tower.config.hidden_size)
    optimiser = adamw(iter([*tower.parameters(), *reader.parameters()]), config.lr)
    right: list[float] = []
    with progress(config.steps, "steps") as advance:
        for step in range(config.steps):
            for group in optimiser.param_groups:
                group["lr"] = cosine_lr(step, config.steps, config.lr)
            scenes = [random_scene(rng) for _ in range(config.batch)]
            cells, backgrounds = cell_labels(scenes)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = tower(pixel_values=drawn(scenes), output_hidden_states=True).hidden_states[-1][:, 1:]
                logits, background = reader(hidden)
            loss = nn.functional.cross_entropy(background.float(), backgrounds)
            # Empty cells are many and easy: things weigh as much as all of them together.
            weight = torch.where(cells[..., 0] > 0, 4.0, 1.0)
            for k, one in enumerate(logits):
                each = nn.functional.cross_entropy(one.float().flatten(0, 1), cells[..., k].flatten(), reduction="none")
                loss = loss + (each * weight.flatten()).sum() / weight.sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimiser.step()
            guessed = torch.stack([one.argmax(-1) for one in logits], -1)
            right.append(float((guessed == cells).all(-1).all(-1).float().mean()))
            advance(1)
    tower.save_pretrained(out / "tower")
    seen = config.steps * config.batch
    return Counts(read=seen, kept=seen, written=1, detail={"scenes_fully_right": round(float(np.mean(right[-50:])), 4)})
