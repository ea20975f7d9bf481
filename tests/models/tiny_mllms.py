"""Random MLLMs of every family that can embed, small enough to build and train in a test."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from models import tiny
from models.encoders.mllm import MllmEncoder
from models.encoders.mllm_text import Templates
from tests.models.tiny_llava import WORDS

TEMPLATES = Templates("In a word?", "{{caption}} In a word?", "{{modification}} In a word?")
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """One for all families; `<image>` stands for an image."""
    return tiny.mllm_tokenizer(WORDS * 20, [], vocabulary=300)


def encoder(family: str, **settings: Any) -> MllmEncoder:
    """llava, qwen2_vl, qwen2_5_vl or phi4_multimodal, in evaluation mode, float32; phi3_v comes from a folder."""
    words = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = NATIVE[family](words)
        with torch.no_grad():
            for parameter in model.parameters():  # large enough that different inputs give clearly different outputs
                if parameter.dim() >= 2:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return MllmEncoder(model, words, processor, **({"templates": TEMPLATES} | settings)).eval()


def _llava(words: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    return tiny.mllm(words, hidden=32, layers=2), tiny.image_processor()


def _special(words: PreTrainedTokenizerFast) -> dict[str, int]:
    image = words.convert_tokens_to_ids("<image>")
    return {"image_token_id": image, "video_token_id": len(words) - 1, "vision_start_token_id": len(words) - 2}


def _qwen2_vl(words: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    text = {**TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id, "rope_parameters": _rope()}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **_special(words))
    return Qwen2VLForConditionalGeneration(config), Qwen2VLImageProcessorPil(patch_size=14)


def _qwen2_5_vl(words: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    text = {**TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id, "rope_parameters": _rope()}
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "window_size": 56,
        "fullatt_block_indexes": [1], "out_hidden_size": 32,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_special(words))
    return Qwen2_5_VLForConditionalGeneration(config), Qwen2VLImageProcessorPil(patch_size=14)


def _rope() -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}  # 16 / 2 of a head in all


def _phi4(words: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56,
        "crop_size": 56, "patch_size": 14, "image_token_id": words.convert_tokens_to_ids("<image>"),
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "intermediate_size": 48, "num_blocks": 1, "num_attention_heads": 2,
        "audio_token_id": len(words) - 1, "ext_pw_out_channel": 32, "nemo_conv_channels": 32,
        "depthwise_separable_out_channel": 32,
    }  # fmt: skip
    config = Phi4MultimodalConfig(
        **{**TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id},
        vision_config=vision, audio_config=audio, sliding_window=None,
        original_max_position_embeddings=256, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    half = [0.5, 0.5, 0.5]
    return Phi4MultimodalForCausalLM(config), CLIPImageProcessorPil(image_mean=half, image_std=half)


NATIVE = {"llava": _llava, "qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "phi4_multimodal": _phi4}

PHI3_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def phi3v_folder(folder: Path) -> Path:
    """A checkpoint of type phi3_v as it is published, with code of its own: tests/models/phi3v_stand_in.py."""
    from tests.models.phi3v_stand_in import Phi3VConfig, Phi3VForCausalLM

    words = tokenizer()
    words.add_tokens(["<|image|>", "<|assistant|>"], special_tokens=True)
    words.chat_template = PHI3_TEMPLATE
    words.save_pretrained(folder)
    settings = {
        **TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id,
        "embd_layer": {"hd_transform_order": "sub_glb"}, "img_processor": {"image_dim_out": 32},
        "original_max_position_embeddings": 256,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Phi3VForCausalLM(Phi3VConfig(**settings)).state_dict()
        weights = {}
        for name, weight in state.items():
            if ".wte." not in name:
                published = name.replace("img_processor.", "img_processor.vision_model.")
                weights[published] = weight + torch.randn_like(weight) * 0.1 if weight.dim() >= 2 else weight.clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code = {"AutoConfig": "Phi3VConfig", "AutoModelForCausalLM": "Phi3VForCausalLM"}
    config = {
        **settings, "model_type": "phi3_v", "architectures": ["Phi3VForCausalLM"], "torch_dtype": "bfloat16",
        "_attn_implementation": "flash_attention_2",
        "auto_map": {kind: f"modeling_phi3_v.{name}" for kind, name in code.items()},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    half = {
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "Phi3VImageProcessor",
        "auto_map": {"AutoImageProcessor": "processing_phi3_v.Phi3VImageProcessor"},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(half), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("phi3v_stand_in.py"), folder / "modeling_phi3_v.py")
    return folder
