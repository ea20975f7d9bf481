"""Teach the small MLLM of the tiny world: first its vision tower to see, then the whole to answer our prompts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

import prompts
from data.artifact import Artifact, Counts, write_json
from data.config import StageConfig
from data.progress import progress
from data.tiny_lessons import TASKS, Lesson, lesson
from data.tiny_world import BACKGROUNDS, DOMAIN, POSITIONS, Scene, draw, random_scene
from models import tiny
from models.export import save_llava
from tasks.stage import stage

# From a step on, the share of each task among the mini-batches, which are of one task each, so that little is padded.
# Seeing comes before comparing, and judging last: it has one word an answer to learn from.
MIX = {
    start: dict(zip(TASKS, shares, strict=True))
    for start, shares in (
        (0, (0.2, 0.3, 0.1, 0.2, 0.1, 0.1)),
        (1500, (0.08, 0.3, 0.07, 0.2, 0.2, 0.15)),
        (2500, (0.04, 0.24, 0.05, 0.22, 0.2, 0.25)),
        (3500, (0.03, 0.15, 0.02, 0.2, 0.2, 0.4)),
    )
}


def mix_at(step: int) -> dict[str, float]:
    """Share of each task at a step."""
    return MIX[max(start for start in MIX if start <= step)]


GRID = ("shape", "colour", "size", "texture")


class SeeConfig(StageConfig):
    """What decides the vision tower."""

    steps: PositiveInt = 1500
    batch: PositiveInt = 128
    lr: PositiveFloat = 1e-3
    seed: int = 0


class TeachConfig(StageConfig):
    """What decides the MLLM. `width` and `layers` shrink the language model for a weaker one."""

    steps: PositiveInt = 4300
    batch: PositiveInt = 24  # of each of `parts` mini-batches
    parts: PositiveInt = 4
    lr: PositiveFloat = 1.5e-3
    layers: PositiveInt = 6
    vocabulary: PositiveInt = 700
    seed: int = 0
    save_every: PositiveInt = 500


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


# --- Seeing ---


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


# --- Answering ---


def rendered(question: Lesson) -> str:
    """Fill the prompt of a question's task, as the generation stage does."""
    fields = dict(question.fields)
    if "style" in fields:
        fields["style"] = prompts.load(f"styles/{fields['style']}").text
    return prompts.load(question.task).render(**fields)


def fixed_texts() -> list[str]:
    """Texts that are one token each: constant parts of the prompts, the styles, and what frames an answer's fields."""
    found = []
    for task in TASKS:
        prompt = prompts.load(task)
        found += tiny.fixed_parts(prompt.text)
        found += [f'{{"{prompt.answer[0]}": "', *(f'", "{name}": "' for name in prompt.answer[1:]), '"}']
    return [*found, *(prompts.load(f"styles/{name}").text for name in ("short", "sentence"))]


def corpus(seed: int) -> list[str]:
    """Texts to learn a vocabulary from: the variable parts of questions and answers."""
    rng = random.Random(f"corpus/{seed}")
    texts: list[str] = []
    for _ in range(1500):
        for task in TASKS:
            question = lesson(task, rng)
            texts += [*question.fields.values(), *question.answer.values()]
    return texts


class Lessons(IterableDataset[dict[str, Tensor]]):
    """An endless stream of mini-batches of one task each: `input_ids`, `labels` (B, L), `pixel_values` (N, 3, 96, 96).

    The stream of a seed and a first step is always the same, so that a resumed run sees what it would have seen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: TeachConfig, first: int) -> None:
        self.tokenizer, self.config, self.first = tokenizer, config, first

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        step = self.first
        while True:
            name = f"teach/{self.config.seed}/{step}"
            mix = mix_at(step)
            tasks = random.Random(name).choices(list(mix), list(mix.values()), k=self.config.parts)
            for part, task in enumerate(tasks):
                rng = random.Random(f"{name}/{part}")
                yield batch([lesson(task, rng) for _ in range(self.config.batch)], self.tokenizer)
            step += 1


def batch(questions: Sequence[Lesson], tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Turn questions of one task into padded token ids, labels (-100 outside the answer) and pixels."""
    patches = [tokenizer.convert_tokens_to_ids(tiny.IMAGE_TOKEN)] * (tiny.IMAGE_SIZE // tiny.PATCH) ** 2
    user, answer = tokenizer.convert_tokens_to_ids([tiny.USER, tiny.ANSWER])
    asked = tokenizer([rendered(question) for question in questions], add_special_tokens=False)["input_ids"]
    written = tokenizer([json.dumps(dict(q.answer)) for q in questions], add_special_tokens=False)["input_ids"]
    rows, labels = [], []
    for question, before, after in zip(questions, asked, written, strict=True):
        prefix = [user, *patches * len(question.scenes), *before, answer]
        after = [*after, tokenizer.eos_token_id]
        rows.append(torch.tensor(prefix + after))
        labels.append(torch.tensor([-100] * len(prefix) + after))
    result = {
        "input_ids": nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }
    scenes = [scene for question in questions for scene in question.scenes]
    if scenes:
        result["pixel_values"] = drawn(scenes)
    return result


@stage(version=1)
def teach(out: Path, config: TeachConfig, seen: Artifact) -> Counts:
    """Train the LLaVA on lessons that are never repeated, the tower frozen; continues from the last saved step."""
    torch.manual_seed(config.seed)
    tokenizer = tiny.mllm_tokenizer(corpus(config.seed), fixed_texts(), config.vocabulary)
    model = tiny.mllm(tokenizer, layers=config.layers)
    # On a CPU, for so short rows, 1.4 times as fast as the fused attention.
    model.set_attn_implementation("eager")
    model.model.vision_tower.load_state_dict(type(tiny.tower()).from_pretrained(seen.path / "tower").state_dict())
    model.model.vision_tower.requires_grad_(False)
    optimiser = adamw(model.parameters(), config.lr)
    resume = out / "resume.pt"
    first = 0
    if resume.is_file():
        state = torch.load(resume)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    history: list[dict[str, Any]] = []
    stream = iter(DataLoader(Lessons(tokenizer, config, first), batch_size=None, num_workers=1, prefetch_factor=8))
    with progress(config.steps, "steps", first) as advance:
        for step in range(first, config.steps):
            for group in optimiser.param_groups:
                group["lr"] = cosine_lr(step, config.steps, config.lr)
            optimiser.zero_grad()
            total = 0.0
            for _ in range(config.parts):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(**next(stream)).loss / config.parts
                loss.backward()
                total += loss.item()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            advance(1)
            if (step + 1) % config.save_every == 0:
                history.append({"step": step + 1, "loss": round(total, 4)})
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
                torch.save(state, resume.with_suffix(".tmp"))
                resume.with_suffix(".tmp").replace(resume)
    save_checkpoint(model, tokenizer, out / "checkpoint")
    resume.unlink(missing_ok=True)
    write_json(out / "history.json", history)
    taught = config.steps * config.parts * config.batch
    return Counts(read=taught, kept=taught, written=1)


def save_checkpoint(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the MLLM as both transformers and vLLM read it, in bfloat16."""
    save_llava(model.to(torch.bfloat16), tiny.mllm_processor(tokenizer), folder)
