"""The MLLM as an embedder: padding, batches, images of any shape, LoRA, files, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from models.encoders import load_encoder
from models.encoders.mllm import MllmEncoder
from models.encoders.mllm_load import load_mllm
from models.encoders.mllm_text import BARE, Templates, Turn
from tests.models.tiny_llava import noise_images, tiny_llava_folder
from tests.models.tiny_mllms import NATIVE, TEMPLATES, encoder

MODIFICATIONS = ["make it red", "a", "remove the small star on the left and add a large circle", "two"]
SHAPES = [(96, 96), (200, 60), (70, 190), (30, 30)]


def images() -> list[Image.Image]:
    return [noise_images(1, seed, size)[0] for seed, size in enumerate(SHAPES)]


def everything(one: MllmEncoder) -> dict[str, Tensor]:
    """All kinds of turn in one batch each."""
    with torch.no_grad():
        pixels = one.pixels(images())
        vision = pixels if one.takes_pixels else one.vision_of(pixels)
        return {
            "image": one.image_tokens(vision).tokens,
            "caption": one.text_tokens(MODIFICATIONS).tokens,
            "query": one.query_tokens(vision, MODIFICATIONS).tokens,
        }


def singles(one: MllmEncoder) -> dict[str, Tensor]:
    """The same, one item at a time."""
    rows: dict[str, list[Tensor]] = {"image": [], "caption": [], "query": []}
    with torch.no_grad():
        for image, text in zip(images(), MODIFICATIONS, strict=True):
            vision = one.vision_of(one.pixels([image]))
            rows["image"].append(one.image_tokens(vision).tokens)
            rows["caption"].append(one.text_tokens([text]).tokens)
            rows["query"].append(one.query_tokens(vision, [text]).tokens)
    return {name: torch.cat(found) for name, found in rows.items()}


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("llava", {}), ("llava", {"resolution": "dynamic"}), ("qwen2_vl", {"image_tokens": 9}),
    ("qwen2_vl", {"image_tokens": 12, "resolution": "dynamic"}), ("qwen2_5_vl", {"image_tokens": 9}),
    ("qwen2_5_vl", {"image_tokens": 20, "resolution": "dynamic"}), ("phi4_multimodal", {}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "settings"), SETTINGS)
def test_a_batch_gives_the_embeddings_of_single_items_whatever_the_side_of_padding(
    family: str, settings: dict[str, Any]
) -> None:
    one = encoder(family, **settings)
    alone = singles(one)
    for side in ("right", "left"):
        one.padding = side
        for name, found in everything(one).items():
            assert found.shape == (4, 1, 32)
            torch.testing.assert_close(found, alone[name], atol=1e-4, rtol=0, msg=f"{name}, padded {side}")
            torch.testing.assert_close(found.norm(dim=-1), torch.ones(4, 1))
    # Different inputs give different embeddings, or the test would say nothing.
    query = alone["query"][:, 0]
    assert float((query @ query.T - torch.eye(4)).max()) < 0.999
    assert not torch.allclose(alone["query"], alone["image"], atol=1e-3)


def test_it_embeds_in_bfloat16_if_asked_to() -> None:
    one = encoder("llava")
    fine = everything(one)
    one.halved = True
    for name, coarse in everything(one).items():
        cosines = (coarse * fine[name]).sum(dim=-1)
        assert coarse.dtype == torch.float32
        assert 0.98 < float(cosines.min()) < 1 - 1e-6, name


def test_an_embedding_depends_on_image_and_words_and_template() -> None:
    one = encoder("llava")
    before = everything(one)
    with torch.no_grad():
        other = one.vision(noise_images(4, seed=9))
        assert not torch.allclose(one.query_tokens(other, MODIFICATIONS).tokens, before["query"], atol=1e-3)
    one.use(Templates("Name it.", "{{caption}} Name it.", "{{modification}} Name it."))
    for name, found in everything(one).items():
        assert not torch.allclose(found, before[name], atol=1e-3)
    one.use(None)
    torch.testing.assert_close(everything(one)["query"], before["query"])


def test_the_vision_features_are_the_models_own(tmp_path: Path) -> None:
    """Tower and adapter, called apart, give what Hugging Face's model gives."""
    for family in ("llava", "qwen2_vl", "qwen2_5_vl"):
        one = encoder(family, **({} if family == "llava" else {"image_tokens": 20, "resolution": "dynamic"}))
        prepared = one.pixels(images())
        found = one._family.adapted(one.vision_of(prepared))
        with torch.no_grad():
            if family == "llava":
                expected = one.model.model.get_image_features(
                    prepared, vision_feature_layer=-1, vision_feature_select_strategy="default", return_dict=True
                ).pooler_output
            else:
                sides = prepared[:, 0, :2].long()
                grid = torch.cat([torch.ones(4, 1, dtype=torch.long), sides], dim=1)
                patches = [row[1 : 1 + int(size.prod())] for row, size in zip(prepared, grid, strict=True)]
                expected = one.model.model.get_image_features(torch.cat(patches), grid, return_dict=True).pooler_output
        assert [len(one) for one in found] == [len(one) for one in expected]
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_it_is_the_hidden_state_of_the_whole_model_at_the_end(tmp_path: Path) -> None:
    """Against one plain call of Hugging Face's model, with its own placement of images and positions."""
    for family in ("llava", "qwen2_vl"):
        one = encoder(family, **({} if family == "llava" else {"image_tokens": 9}))
        prepared = one.pixels(images()[:1])
        with torch.no_grad():
            vision = one.vision_of(prepared)
            found = one.query_tokens(vision, MODIFICATIONS[:1]).tokens[0, 0]
            ids = one._layout.ids([Turn(TEMPLATES.query, MODIFICATIONS[0], True)])[0][0]
            count, image = len(one._family.adapted(vision)[0]), one._family.image_id
            at = ids.index(image)
            whole = torch.tensor([[*ids[:at], *[image] * count, *ids[at + 1 :]]])
            more: dict[str, Any] = {"pixel_values": prepared}
            if family == "qwen2_vl":
                sides = prepared[0, 0, :2].long().tolist()
                kinds = (whole == image).int()
                more = {"pixel_values": prepared[0, 1:], "image_grid_thw": torch.tensor([[1, *sides]]),
                        "mm_token_type_ids": kinds}  # fmt: skip
            states = one.model(input_ids=whole, output_hidden_states=True, **more).hidden_states[-1]
        assert ids[-1] == one.tokenizer.eos_token_id
        torch.testing.assert_close(found, torch.nn.functional.normalize(states[0, -1], dim=-1), atol=1e-5, rtol=1e-4)


def test_long_texts_are_cut_and_counted_and_the_template_stays() -> None:
    one = encoder("llava", max_text_tokens=32)
    long = "red circle " * 60
    assert one.cut_texts([long, "red"]) == 1
    assert one.truncations == 0
    rows, cut = one._layout.ids([Turn(TEMPLATES.caption, long, False), Turn(TEMPLATES.caption, "red", False)])
    assert cut == 1
    assert len(rows[0]) <= 32
    assert one.tokenizer.decode(rows[0]).endswith(" In a word?<|answer|><|end|>")
    assert one.text_tokens([long]).tokens.shape == (1, 1, 32)
    assert one.truncations == 1
    with pytest.raises(ValueError, match="a turn may have 6 tokens"):
        encoder("llava", max_text_tokens=6)


def test_words_that_look_like_special_tokens_change_nothing() -> None:
    one = encoder("llava")
    with torch.no_grad():
        vision = one.vision(noise_images(1))
        found = one.query_tokens(vision, ["make <image> it<|end|>  red\n"]).tokens
        torch.testing.assert_close(found, one.query_tokens(vision, ["make it red"]).tokens)


@pytest.mark.parametrize("family", NATIVE)
def test_lora_starts_as_nothing_and_is_merged_when_saved(family: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"image_tokens": 9} if family.startswith("qwen") else {}
    one = encoder(family, **settings)
    before = everything(one)
    one.prepare(("tower", "adapter", "language"), rank=4)
    names = [name for name, _ in one.trainable()]
    assert names[-1] == "temperature" or "temperature" in names
    assert all(".lora_" in name for name in names if name != "temperature")
    for prefixes in one._family.prefixes.values():
        assert any(name.removeprefix("model.").startswith(prefixes) for name in names)
    for name, found in everything(one).items():
        torch.testing.assert_close(found, before[name])
    with torch.no_grad():
        for name, parameter in one.trainable():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    changed = everything(one)
    assert not torch.allclose(changed["image"], before["image"], atol=1e-3)
    one.save(tmp_path / "saved")
    again = load_mllm(tmp_path / "saved", device="cpu")
    assert (again.templates, again.image_tokens_wanted) == (TEMPLATES, settings.get("image_tokens"))
    for name, found in everything(again).items():
        torch.testing.assert_close(found, changed[name], atol=1e-4, rtol=0)


def test_only_the_chosen_parts_are_trained() -> None:
    one = encoder("llava")
    one.prepare(("language",), rank=None)
    names = [name for name, _ in one.trainable() if name != "temperature"]
    assert names
    assert all(name.startswith("model.model.language_model.") for name in names)
    everything_trained = encoder("llava")
    everything_trained.prepare(("language",), rank=4)
    loss = everything_trained.text_tokens(["red", "blue"]).tokens[:, 0].sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for n, p in everything_trained.trainable() if n != "temperature")


def test_load_encoder_takes_a_llava_and_its_digest_knows_the_templates(tmp_path: Path) -> None:
    one = load_encoder(str(tiny_llava_folder(tmp_path)), "cpu")
    assert isinstance(one, MllmEncoder)
    assert one.templates == BARE
    plain = one.digest
    one.use(TEMPLATES)
    assert one.digest not in (plain, "")
    one.use(None)
    assert one.digest == plain


def test_what_cannot_embed_is_refused() -> None:
    one = encoder("llava")
    with pytest.raises(ValueError, match="reading must be cls, got 'text_ffn'"):
        one.text_tokens(["red"], "text_ffn")
    with pytest.raises(ValueError, match="1 images and 2 texts"):
        one.query_tokens(one.vision(noise_images(1)), ["a", "b"])
    with pytest.raises(ValueError, match="no images"):
        one.pixels([])
    with pytest.raises(ValueError, match="nothing to embed"):
        one.text_tokens([])
    with pytest.raises(ValueError, match="phi4_multimodal is read at fixed resolution"):
        encoder("phi4_multimodal", resolution="dynamic")
    with pytest.raises(ValueError, match="leave out image_tokens"):
        encoder("llava", image_tokens=4)
    with pytest.raises(ValueError, match="no dropout of its own"):
        one.set_dropout(0.1)
    for wrong in ({"image": "{{caption}}"}, {"caption": "none"}, {"query": "{{caption}}"}):
        with pytest.raises(ValueError, match="template"):
            Templates(**wrong)
