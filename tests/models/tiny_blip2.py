"""A random BLIP-2 small enough to build, run and train in a test."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer, Blip2Config, Blip2ForImageTextRetrieval
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from models.encoders.blip2 import Blip2Encoder

WORDS = [
    *["a", "the", "it", "is", "now", "not", "of", "and", "make", "add", "remove", "left", "right"],
    *["red", "green", "blue", "circle", "square", "star", "two", "three"],
]


def tiny_encoder(seed: int = 0, max_text_tokens: int = 16, layers: int = 2) -> Blip2Encoder:
    """2 + 2 layers of width 32, images of 32 px in 4 patches, 4 query tokens, features of 8 values.

    The query tokens are random too: Hugging Face starts them at zero, which would make all of them alike.
    """
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz.,"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = list(dict.fromkeys(vocabulary))
    config = Blip2Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers, "num_attention_heads": 4,
            "image_size": 32, "patch_size": 16,
        },
        qformer_config={
            "vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers,
            "num_attention_heads": 4, "max_position_embeddings": 32, "cross_attention_frequency": 2,
            "use_qformer_text_input": True,
        },
        num_query_tokens=4,
        image_text_hidden_size=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Blip2ForImageTextRetrieval(config)
        with torch.no_grad():
            for parameter in model.parameters():  # large enough that different inputs give clearly different outputs
                parameter.add_(torch.randn_like(parameter) * 0.1)
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)})
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    return Blip2Encoder(model, tokenizer, processor, max_text_tokens=max_text_tokens).eval()


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """The same, saved."""
    tiny_encoder(seed).save(folder)
    return folder


def noise_images(count: int, seed: int = 0, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    """RGB images of random pixels, `size` = (width, height)."""
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(count)]
