"""The architectures and vocabularies of the shipped small checkpoints: ordinary Hugging Face classes, small numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_SIZE = 96
PATCH = 16
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGE_TOKEN, USER, ANSWER, END, PAD = "<image>", "<|user|>", "<|answer|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}" + USER + "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + IMAGE_TOKEN + "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% else %}" + ANSWER + "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}" + END + ""
    "{% endif %}{% endfor %}{% if add_generation_prompt %}" + ANSWER + "{% endif %}"
)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Turn (B, H, W, 3) uint8 into (B, 3, H, W) float32, normalised as CLIP's images are."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


def image_processor() -> CLIPImageProcessorPil:
    """Squash any picture to 96 x 96, then CLIP's mean and deviation."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(size=size, do_center_crop=False, crop_size=size)


# --- MLLM ---


def mllm_tokenizer(corpus: Iterable[str], fixed: Sequence[str], vocabulary: int = 700) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE vocabulary.

    Args:
        corpus: texts to learn it from.
        fixed: texts that become one token each, longest match first: the constant parts of prompts and of JSON
        answers, so
            that a small model is not busy with reading them. Any other text is read byte pair by byte pair.
        vocabulary: number of byte pairs learned, without the fixed texts.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ANSWER, IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in dict.fromkeys(fixed)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ANSWER, IMAGE_TOKEN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def fixed_parts(text: str) -> list[str]:
    """Split a prompt at its placeholders and keep the constant parts that are longer than a word."""
    return [part for part in re.split(r"\{\{\w+\}\}", text) if len(part.strip()) > 12]


def mllm_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


def tower(hidden: int = 192, layers: int = 4) -> CLIPVisionModel:
    """Build a CLIP vision tower: 36 patches of 16 x 16 pixels, four of them to a cell of the tiny world."""
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
            projection_dim=hidden,
        )
    )


def mllm(tokenizer: PreTrainedTokenizerFast, hidden: int = 192, layers: int = 6) -> LlavaForConditionalGeneration:
    """Build the LLaVA: the tower, a two-layer projector, and a Llama whose heads have the 32 dimensions vLLM asks
    for."""
    config = LlavaConfig(
        vision_config=tower().config,
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=512,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


# --- BLIP-2 ---


def blip2_tokenizer(corpus: Iterable[str], vocabulary: int = 400) -> BertTokenizer:
    """Train a lower-casing WordPiece vocabulary of BERT's kind."""
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(corpus, vocab_size=vocabulary, show_progress=False)
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=True, model_max_length=128)


def blip2(vocabulary: int, hidden: int = 160, queries: int = 16, dim: int = 128) -> Blip2ForImageTextRetrieval:
    """Build the BLIP-2 retriever: a ViT and a Q-Former of four layers each, `queries` tokens of `dim` dimensions an
    image."""
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=4,
            num_attention_heads=hidden // 32,
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=4,
            num_attention_heads=hidden // 32,
            intermediate_size=3 * hidden,
            max_position_embeddings=128,
            cross_attention_frequency=2,
            encoder_hidden_size=hidden,
            use_qformer_text_input=True,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ).to_dict(),
        num_query_tokens=queries,
        image_text_hidden_size=dim,
    )
    model = Blip2ForImageTextRetrieval(config)
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    return model
