"""The BLIP-2 encoder against Hugging Face's own forward, and its files, masks and borders."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.encoders import Encoder, TextReading
from models.encoders.blip2 import LENGTH_GROUP, Blip2Encoder
from models.encoders.placement import resolve_device, resolve_dtype
from tests.models.tiny_blip2 import noise_images, tiny_checkpoint, tiny_encoder

TEXTS = ["Make it red", "the circle is now left of the square", "add a star"]


@pytest.fixture(scope="module")
def encoder() -> Blip2Encoder:
    return tiny_encoder()


def hugging_face(encoder: Blip2Encoder, matching: bool) -> tuple[Any, Tensor]:
    """Hugging Face's forward on the same inputs, prepared by the tokenizer itself; and what its matching head saw."""
    inputs = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    seen: list[Tensor] = []
    handle = encoder.model.itm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        with torch.no_grad():
            output = encoder.model(
                pixel_values=encoder.pixels(noise_images(3)),
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_image_text_matching_head=matching,
            )
    finally:
        handle.remove()
    return output, seen[0] if seen else torch.empty(0)


@torch.no_grad()
def test_image_and_text_tokens_equal_hugging_faces_contrastive_forward(encoder: Blip2Encoder) -> None:
    output, _ = hugging_face(encoder, matching=False)
    image = encoder.image_tokens(encoder.vision(noise_images(3)))
    text = encoder.text_tokens(TEXTS)
    assert image.tokens.shape == (3, 4, 8)
    assert text.tokens.shape == (3, 1, 8)
    torch.testing.assert_close(image.tokens, output.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text.tokens[:, 0], output.text_embeds, atol=1e-5, rtol=0)


@torch.no_grad()
def test_composed_tokens_equal_the_hidden_states_of_hugging_faces_matching_forward(encoder: Blip2Encoder) -> None:
    _, hidden = hugging_face(encoder, matching=True)
    expected = functional.normalize(encoder.model.vision_projection(hidden), dim=-1)
    composed = encoder.query_tokens(encoder.vision(noise_images(3)), TEXTS)
    torch.testing.assert_close(composed.tokens, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_row_does_not_depend_on_the_batch_it_is_in(encoder: Blip2Encoder) -> None:
    vision = encoder.vision(noise_images(3))
    whole = [encoder.image_tokens(vision), encoder.text_tokens(TEXTS), encoder.query_tokens(vision, TEXTS)]
    for row in range(3):  # batches of one, and other paddings
        one = vision[row : row + 1]
        alone = [
            encoder.image_tokens(one),
            encoder.text_tokens(TEXTS[row : row + 1]),
            encoder.query_tokens(one, TEXTS[row : row + 1]),
        ]
        for together, single in zip(whole, alone, strict=True):
            assert single.tokens.shape[0] == 1
            torch.testing.assert_close(single.tokens, together.tokens[row : row + 1], atol=1e-5, rtol=0)
            assert single.mask.all()


@torch.no_grad()
def test_grouping_by_length_keeps_the_order(encoder: Blip2Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = encoder.vision(noise_images(7))
    texts = ["make it red", "a", "the circle is now left of the square", "a star", "add a star", "a", "it is not red"]
    whole = encoder.query_tokens(vision, texts).tokens
    monkeypatch.setitem(LENGTH_GROUP, "cpu", 2)
    torch.testing.assert_close(encoder.query_tokens(vision, texts).tokens, whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_tokens_are_unit_vectors_and_each_input_matters(encoder: Blip2Encoder) -> None:
    vision = encoder.vision(noise_images(2))
    composed = encoder.query_tokens(vision, ["make it red"] * 2).tokens
    torch.testing.assert_close(composed.norm(dim=-1), torch.ones(2, 4))
    assert (composed[0] - composed[1]).abs().max() > 1e-3  # the image
    other = encoder.query_tokens(vision, ["make it blue"] * 2).tokens
    assert (composed - other).abs().max() > 1e-3  # the text
    assert (composed - encoder.image_tokens(vision).tokens).abs().max() > 1e-3


def test_case_and_white_space_do_not_matter(encoder: Blip2Encoder) -> None:
    assert encoder.tokenize(["  Make\tIT   Red\n"])[0].tolist() == encoder.tokenize(["make it red"])[0].tolist()


def test_long_texts_are_cut_before_sep_and_counted() -> None:
    encoder = tiny_encoder(max_text_tokens=5)
    # [CLS] make it red [SEP] fits exactly; one word more does not
    ids, mask = encoder.tokenize(["make it red", "make it red now", "a"])
    assert encoder.truncations == 1
    assert encoder.cut_texts(["make it red", "make it red now"]) == 1
    assert encoder.cut_texts([]) == 0
    assert encoder.truncations == 1
    assert ids[0].tolist() == ids[1].tolist()
    assert mask.sum(dim=1).tolist() == [5, 5, 3]
    assert ids[2, 3:].tolist() == [encoder.tokenizer.pad_token_id] * 2


def test_an_id_beyond_the_embedding_table_becomes_unknown() -> None:
    encoder = tiny_encoder()
    encoder.tokenizer.add_tokens(["<image>"])
    ids, _ = encoder.tokenize(["<image>"])
    assert ids.tolist() == [
        [encoder.tokenizer.cls_token_id, encoder.tokenizer.unk_token_id, encoder.tokenizer.sep_token_id]
    ]


def test_wrong_calls_say_what_they_got(encoder: Blip2Encoder) -> None:
    with pytest.raises(ValueError, match="no images"):
        encoder.vision([])
    with pytest.raises(ValueError, match="no texts"):
        encoder.text_tokens([])
    with pytest.raises(ValueError, match="got 2 images and 1 texts"):
        encoder.query_tokens(encoder.vision(noise_images(2)), ["a"])
    with pytest.raises(ValueError, match="between 3 and the model's 32, got 33"):
        tiny_encoder(max_text_tokens=33)
    with pytest.raises(ValueError, match="got 'tpu'"):
        resolve_device("tpu")
    with pytest.raises(ValueError, match="got 'int8'"):
        resolve_dtype("int8", torch.device("cpu"))


@torch.no_grad()
def test_a_saved_and_reloaded_model_gives_the_same_tokens(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.temperature.fill_(0.05)
    encoder.save(tmp_path)
    again = Blip2Encoder.load(tmp_path, digest="abc")
    images = noise_images(2)
    before = encoder.query_tokens(encoder.vision(images), TEXTS[:2]).tokens
    assert torch.equal(again.query_tokens(again.vision(images), TEXTS[:2]).tokens, before)
    assert again.temperature.item() == pytest.approx(0.05)
    assert (again.max_text_tokens, again.digest, again.training) == (16, "abc", False)
    typed: Encoder = again  # the interface, checked by the type checker
    assert typed.digest == "abc"


@torch.no_grad()
def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.save(tmp_path / "whole")
    encoder.save(tmp_path / "half", dtype="float16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = Blip2Encoder.load(tmp_path / "half")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    images = noise_images(2)
    difference = again.image_tokens(again.vision(images)).tokens - encoder.image_tokens(encoder.vision(images)).tokens
    assert 0 < difference.abs().max() < 5e-3


@torch.no_grad()
def test_the_vision_tower_alone_takes_the_asked_dtype(tmp_path: Path) -> None:
    encoder = Blip2Encoder.load(tiny_checkpoint(tmp_path), dtype="bfloat16")
    vision = encoder.vision(noise_images(1))
    assert vision.dtype == torch.bfloat16
    assert encoder.query_tokens(vision, ["a"]).tokens.dtype == torch.float32
    assert encoder.model.query_tokens.dtype == torch.float32


def test_a_plain_hugging_face_folder_loads_with_defaults(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    (tmp_path / "cirque.json").unlink()
    encoder = Blip2Encoder.load(tmp_path)
    assert encoder.temperature.item() == pytest.approx(0.07)
    assert encoder.max_text_tokens == 32  # all the text positions of this model, fewer than our default of 64
    assert Blip2Encoder.load(tmp_path, max_text_tokens=8).max_text_tokens == 8


def test_missing_weights_and_changed_preprocessing_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_checkpoint(tmp_path)
    processor = tmp_path / "preprocessor_config.json"
    original = processor.read_text()
    changed = json.loads(original)
    changed["size"] = {"height": 16, "width": 16}
    processor.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="one of them was changed by hand"):
        Blip2Encoder.load(tmp_path)
    processor.write_text(original)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vision_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"vision_projection\.weight"):
        Blip2Encoder.load(tmp_path)


def test_weights_of_no_place_are_refused_but_for_constants(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_checkpoint(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    constants = {"embeddings.position_ids": torch.arange(32).unsqueeze(0)}  # as older versions stored them
    save_file({**weights, **constants}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    Blip2Encoder.load(tmp_path)
    extra = {"language_projection.weight": torch.ones(1)}
    save_file({**weights, **extra}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no place for, such as language_projection\.weight"):
        Blip2Encoder.load(tmp_path)


@torch.no_grad()
def test_a_text_is_read_with_or_without_query_tokens(encoder: Blip2Encoder) -> None:
    shapes = {reading: encoder.text_tokens(TEXTS, reading).tokens for reading in get_args(TextReading)}
    assert {reading: tuple(tokens.shape) for reading, tokens in shapes.items()} == {
        "cls": (3, 1, 8),
        "query_ffn": (3, 4, 8),
        "text_ffn": (3, 4, 8),
    }
    for reading, tokens in shapes.items():  # each row alone, without the others' padding
        for row, text in enumerate(TEXTS):
            alone = encoder.text_tokens([text], reading).tokens
            torch.testing.assert_close(alone, tokens[row : row + 1], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="must be cls, query_ffn or text_ffn, got 'both'"):
        encoder.text_tokens(TEXTS, "both")  # type: ignore[arg-type]


def test_training_touches_everything_but_the_tower_and_the_matching_head() -> None:
    encoder = tiny_encoder()
    encoder.set_dropout(0.25)
    images, texts = noise_images(2), TEXTS[:2]
    vision = encoder.vision(images)
    assert not vision.requires_grad
    similarity = encoder.query_tokens(vision, texts).tokens.mean(1) @ encoder.image_tokens(vision).tokens.mean(1).T
    (similarity / encoder.temperature).logsumexp(1).sum().backward()  # type: ignore[no-untyped-call]
    names = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    trainable = {name for name, _ in encoder.trainable()}
    assert names == {name for name in trainable if "text_projection" not in name}  # the [CLS] feature took no part
    assert {"temperature", "model.query_tokens", "model.embeddings.word_embeddings.weight"} <= names
    assert {m.p for m in encoder.model.qformer.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    with pytest.raises(ValueError, match="got 1"):
        encoder.set_dropout(1)
