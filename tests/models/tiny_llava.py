"""A random LLaVA of the shipped one's architecture, small enough to build and run in a test."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import prompts
from models import tiny
from models.export import save_llava

WORDS = ["a small red circle on the left, on a plain blue background", "make the square green and remove the star"]


def tiny_llava(seed: int = 0, layers: int = 2) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Random weights, large enough that different images get different answers."""
    parts = [*tiny.fixed_parts(prompts.load("caption").text), '{"caption": "', '{"modification": "', '"}']
    tokenizer = tiny.mllm_tokenizer(WORDS * 20, parts, vocabulary=300)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tiny.mllm(tokenizer, layers=layers)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(3)
    return model.eval(), tiny.mllm_processor(tokenizer)


def tiny_llava_folder(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """The same, saved. In float32 transformers and vLLM agree on greedy answers."""
    model, processor = tiny_llava(seed)
    save_llava(model, processor, folder, dtype)
    return folder


def noise_images(count: int, seed: int = 0, size: tuple[int, int] = (96, 96)) -> list[Image.Image]:
    """RGB images of random blocks, `size` = (width, height)."""
    generator = np.random.default_rng(seed)
    blocks = [Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(count)]
    return [block.resize(size, Image.Resampling.NEAREST) for block in blocks]
