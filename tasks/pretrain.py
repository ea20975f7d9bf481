"""Pretrain the small BLIP-2 of the tiny world: image-text contrast over captions, as BLIP-2's first stage."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from data.artifact import Counts
from data.config import StageConfig
from data.progress import progress
from data.tiny_edits import KINDS
from data.tiny_language import TRAINED, caption, modification
from data.tiny_lessons import twins
from data.tiny_random_edits import edited, random_edits
from data.tiny_world import Scene, is_held_out, random_scene
from models import tiny
from models.encoders.blip2 import Blip2Encoder
from tasks.see import adamw, cosine_lr, drawn
from tasks.stage import stage

LOOK_ALIKES = 4  # scenes of a batch come in groups that differ by one or two edits


class PretrainConfig(StageConfig):
    """What decides the BLIP-2."""

    steps: PositiveInt = 2000
    batch: PositiveInt = 128
    lr: PositiveFloat = 1e-3
    vocabulary: PositiveInt = 400
    seed: int = 0


def look_alikes(rng: random.Random, count: int) -> list[Scene]:
    """Draw `count` different scenes in groups of `LOOK_ALIKES` that differ by one or two edits."""
    kinds = [kind for kind in KINDS if kind != "negation"]
    scenes: list[Scene] = []
    while len(scenes) < count:
        group = [random_scene(rng)]
        for _ in range(20):
            if len(group) == LOOK_ALIKES:
                break
            scene = edited(rng, group[0], random_edits(rng, group[0], rng.randint(1, 2), kinds))
            if scene is None or any(is_held_out(t) for t in scene.things) or any(scene.same_as(s) for s in group):
                continue
            group.append(scene)
        scenes += group
    return scenes[:count]


def vocabulary_corpus(seed: int) -> list[str]:
    """Captions and modifications to learn a vocabulary from; every word of the language is in it."""
    rng = random.Random(f"corpus/{seed}")
    texts = []
    for _ in range(4000):
        scene, target, edits = twins(rng)
        texts += [caption(scene, rng), caption(target, rng), modification(edits, scene, rng)]
    return [*texts, *(phrase.replace("{", "").replace("}", "") for phrases in TRAINED.values() for phrase in phrases)]


def image_text_contrast(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
    """BLIP-2's image-text contrast, both directions: a text against the nearest of an image's tokens.

    Args:
        images: (B, T, D), L2-normalised; row i belongs to text i.
        texts: (B, D), L2-normalised.
        temperature: scalar > 0.
    """
    similarity = torch.einsum("btd,cd->bct", images, texts).amax(-1) / temperature
    labels = torch.arange(len(images))
    return (nn.functional.cross_entropy(similarity, labels) + nn.functional.cross_entropy(similarity.T, labels)) / 2


@torch.no_grad()
def retrieval(encoder: Blip2Encoder, scenes: list[Scene], rng: random.Random) -> dict[str, float]:
    """Text-to-image recall in percent over `scenes`, look-alikes among them."""
    parts = [scenes[i : i + 250] for i in range(0, len(scenes), 250)]
    images = torch.cat([encoder.image_tokens(encoder.vision_of(drawn(part))).tokens for part in parts])
    texts = torch.cat([encoder.text_tokens([caption(scene, rng) for scene in part]).tokens[:, 0] for part in parts])
    similarity = torch.stack([torch.einsum("btd,d->bt", images, text).amax(-1) for text in texts])
    rank = (similarity > similarity.diagonal()[:, None]).sum(1)
    return {f"recall@{k}": round(float((rank < k).float().mean()) * 100, 2) for k in (1, 10)}


@stage(version=1)
def pretrain(out: Path, config: PretrainConfig) -> Counts:
    """Train the small BLIP-2 and write it in Hugging Face's format."""
    torch.manual_seed(config.seed)
    rng = random.Random(f"pretrain/{config.seed}")
    tokenizer = tiny.blip2_tokenizer(vocabulary_corpus(config.seed), config.vocabulary)
    encoder = Blip2Encoder(tiny.blip2(len(tokenizer)), tokenizer, tiny.image_processor())
    encoder.model.set_attn_implementation("eager")  # on a CPU, for 37 patches, twice as fast as the fused attention
    optimiser = adamw(encoder.parameters(), config.lr)
    encoder.train()
    with progress(config.steps, "steps") as advance:
        for step in range(config.steps):
            for group in optimiser.param_groups:
                group["lr"] = cosine_lr(step, config.steps, config.lr)
            scenes = look_alikes(rng, config.batch)
            with torch.autocast("cpu", torch.bfloat16):
                images = encoder.image_tokens(encoder.vision_of(drawn(scenes))).tokens
                texts = encoder.text_tokens([caption(scene, rng) for scene in scenes]).tokens[:, 0]
            loss = image_text_contrast(images.float(), texts.float(), encoder.temperature)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            with torch.no_grad():
                encoder.temperature.clamp_(0.01, 0.5)
            advance(1)
    encoder.eval()
    test = random.Random("pretrain/held-out")
    quality = retrieval(encoder, look_alikes(test, 1000), test)
    encoder.save(out / "checkpoint", dtype="float16")
    seen = config.steps * config.batch
    return Counts(read=seen, kept=seen, written=1, detail=dict(quality))
