"""Teach the small MLLM of the tiny world to answer our prompts, its vision tower frozen."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from transformers import AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data.artifact import Artifact, Counts, write_json
from data.config import Resources, StageConfig
from data.progress import progress
from models import tiny
from models.checkpoints import folder_revision
from models.export import save_llava
from tasks.lessons import Lessons, Plan, corpus, fixed_texts
from tasks.see import adamw, cosine_lr
from tasks.stage import stage


class TeachConfig(StageConfig):
    """What decides the MLLM. Fewer `layers` and `steps` make a weaker one."""

    steps: PositiveInt = 4800
    batch: PositiveInt = 24  # of each of `parts` mini-batches
    parts: PositiveInt = 4
    lr: PositiveFloat = 1.5e-3
    second: Annotated[float, Field(ge=0, le=1)] = 0.25  # share of the questions asked by the prompts of the second set
    layers: PositiveInt = 6
    vocabulary: PositiveInt = 700
    start: Path | None = None  # a checkpoint to go on from, with its vocabulary
    after: NonNegativeInt = 0  # steps that `start` has behind it, of the `steps`: no lesson is given twice
    seed: int = 0
    save_every: PositiveInt = 500


def teach_facts(config: TeachConfig, seen: Artifact) -> dict[str, Any]:
    """Give the digest of the weights to go on from; without any, nothing."""
    return {"start": folder_revision(config.start)} if config.start else {}


@stage(version=3, facts=teach_facts)
def teach(out: Path, config: TeachConfig, seen: Artifact, *, resources: Resources) -> Counts:
    """Train the LLaVA on lessons that are never repeated, the tower frozen; continues from the last saved step.

    The parts of a step are shared among `resources.workers` processes of one thread, which on a CPU is 1.6 times as
    fast for so small a model as one process of as many threads. Their gradients are averaged: the number of processes
    changes nothing but the order of a sum.
    """
    world = min(resources.workers, config.parts)
    tower, meeting = seen.path / "tower", out / "meeting"
    meeting.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_teach, args=(rank, world, config, tower, out, meeting)) for rank in range(1, world)
    ]
    for process in others:
        process.start()
    threads = torch.get_num_threads()
    try:
        _teach(0, world, config, tower, out, meeting)
        for process in others:
            process.join(30)
    finally:
        torch.set_num_threads(threads)
        for process in others:
            process.kill()
        meeting.unlink(missing_ok=True)
    (out / "resume.pt").unlink(missing_ok=True)
    taught = (config.steps - config.after) * config.parts * config.batch
    return Counts(read=taught, kept=taught, written=1)


def _teach(rank: int, world: int, config: TeachConfig, tower: Path, out: Path, meeting: Path) -> None:
    """Be one of `world` processes that train together."""
    torch.set_num_threads(1)
    address = meeting.absolute().as_uri()
    torch.distributed.init_process_group("gloo", address, timedelta(minutes=3), rank=rank, world_size=world)
    try:
        _train(rank, world, config, tower, out)
    finally:
        torch.distributed.destroy_process_group()


def _train(rank: int, world: int, config: TeachConfig, tower: Path, out: Path) -> None:
    """Take all steps; the first process shows the progress and saves."""
    torch.manual_seed(config.seed)
    tokenizer, model = pupil(config, tower)
    # On a CPU, for so short rows, 1.4 times as fast as the fused attention.
    model.set_attn_implementation("eager")
    model.model.vision_tower.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = adamw(iter(trained), config.lr)
    resume, first = out / "resume.pt", config.after
    history: list[dict[str, Any]] = []
    if resume.is_file():
        state = torch.load(resume)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, history = state["step"], state["history"]
    plan = Plan(config.seed, config.batch, config.parts, config.second)
    stream = iter(Lessons(tokenizer, plan, range(first, config.steps), rank, world))
    mine = len(range(rank, config.parts, world))
    bar = progress(config.steps - config.after, "steps", first - config.after)
    with bar if rank == 0 else nullcontext(lambda _: None) as advance:
        for step in range(first, config.steps):
            for group in optimiser.param_groups:
                group["lr"] = cosine_lr(step - config.after, config.steps - config.after, config.lr)
            optimiser.zero_grad()
            total = torch.zeros(())
            for _ in range(mine):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(**next(stream)).loss / config.parts
                loss.backward()
                total += loss.detach().float()
            add_up(trained, total)
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            advance(1)
            if rank == 0 and (step + 1) % config.save_every == 0:
                history.append({"step": step + 1, "loss": round(total.item(), 4)})
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
                torch.save(state | {"step": step + 1, "history": history}, resume.with_suffix(".tmp"))
                resume.with_suffix(".tmp").replace(resume)
    if rank == 0:
        save_checkpoint(model, tokenizer, out / "checkpoint")
        write_json(out / "history.json", history)


def pupil(config: TeachConfig, tower: Path) -> tuple[PreTrainedTokenizerFast, LlavaForConditionalGeneration]:
    """Make the model with the trained tower, or load the one to go on from, in float32."""
    if config.start is not None:
        tokenizer = AutoTokenizer.from_pretrained(config.start)
        return tokenizer, LlavaForConditionalGeneration.from_pretrained(config.start, dtype=torch.float32).train()
    tokenizer = tiny.mllm_tokenizer(corpus(config.seed), fixed_texts(), config.vocabulary)
    model = tiny.mllm(tokenizer, layers=config.layers)
    model.model.vision_tower.load_state_dict(type(tiny.tower()).from_pretrained(tower).state_dict())
    return tokenizer, model


def add_up(parameters: Sequence[nn.Parameter], total: Tensor) -> None:
    """Replace the gradients of `parameters`, and `total`, by their sums over all processes."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([total.reshape(1), *(gradient.flatten() for gradient in gradients)])
    torch.distributed.all_reduce(flat)
    summed = torch.split(flat[1:], [p.numel() for p in parameters])
    for parameter, one in zip(parameters, summed, strict=True):
        parameter.grad = one.view_as(parameter)
    total.copy_(flat[0])


def save_checkpoint(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the MLLM as both transformers and vLLM read it, in bfloat16."""
    save_llava(model.to(torch.bfloat16), tiny.mllm_processor(tokenizer), folder)
