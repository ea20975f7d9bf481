"""Phi-3-vision, which runs with code of its checkpoint: whose leave that needs, and what it gives; by a stand-in."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.encoders import MLLMS, load_encoder, load_image_encoder
from models.encoders.mllm import MllmEncoder
from models.encoders.mllm_families import FAMILIES
from models.encoders.mllm_load import load_mllm
from models.encoders.mllm_text import Turn
from models.encoders.remote_code import TRUSTED, trusted_code
from models.training import Trainer
from tasks.embedder import EmbedderConfig, embedder
from tests.models.test_mllm_encoder import MODIFICATIONS, everything, images, singles
from tests.models.test_mllm_training import LOSS, batch
from tests.models.tiny_mllms import NATIVE, TEMPLATES, phi3v_folder

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield phi3v_folder(tmp_path_factory.mktemp("phi3v"))


@pytest.fixture
def trusted(published: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(TRUSTED, f"other/model,{published}")
    return published


@pytest.fixture
def one(trusted: Path) -> MllmEncoder:
    found = load_mllm(trusted, device="cpu")
    found.use(TEMPLATES)
    return found


def changed(folder: Path, into: Path, **config: object) -> Path:
    """A copy of a checkpoint with another config."""
    shutil.copytree(folder, into)
    file = into / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return into


def test_all_types_are_tested() -> None:
    assert (*NATIVE, "phi3_v") == MLLMS == tuple(FAMILIES)


def test_its_code_runs_only_if_the_user_names_the_checkpoint(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = changed(published, tmp_path / "model", trust_remote_code=True), tmp_path / "ran"
    with (folder / "modeling_phi3_v.py").open("a") as code:
        code.write(f"\nopen({str(ran)!r}, 'w').close()\n")
    (folder / "cirque.json").write_text(json.dumps({TRUSTED: str(folder), "trust_remote_code": True}))
    monkeypatch.delenv(TRUSTED, raising=False)
    with pytest.raises(PermissionError) as refusal:
        load_encoder(str(folder), "cpu")
    assert f"{folder} is of type 'phi3_v', which runs only with code of its own" in str(refusal.value)
    assert "read it first" in str(refusal.value)
    assert str(refusal.value).endswith(f"set {TRUSTED}={folder}")
    for others in ("", "model", str(tmp_path), f"{folder}-2, owner/model"):
        monkeypatch.setenv(TRUSTED, others)
        with pytest.raises(PermissionError, match="runs only with code of its own"):
            load_encoder(str(folder), "cpu")
        with pytest.raises(PermissionError, match="runs only with code of its own"):
            embedder.fn(tmp_path, EmbedderConfig(checkpoint=str(folder)))
        with pytest.raises(ValueError, match="custom code"):
            load_image_encoder(str(folder), "cpu")
    assert not ran.exists()
    monkeypatch.setenv(TRUSTED, f"owner/model, {folder}/")
    assert embedder.fn(tmp_path, EmbedderConfig(checkpoint=str(folder))).detail == {"type": "phi3_v"}
    assert not ran.exists()  # it was only asked whether it may
    assert isinstance(load_encoder(str(folder), "cpu"), MllmEncoder)
    assert ran.exists()


def test_of_a_hub_the_user_allows_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {kind: f"modeling.{kind}" for kind in ("AutoConfig", "AutoModelForCausalLM")}
    base = {"model_type": "phi3_v", "auto_map": own}
    trained = {"model_type": "phi3_v", "auto_map": {kind: f"owner/base--{name}" for kind, name in own.items()}}
    monkeypatch.setenv(TRUSTED, f"owner/base@{FIRST}")
    assert trusted_code("owner/base", FIRST, base) == ("owner/base", FIRST)
    for kept in ({}, {"code_revision": FIRST}):
        assert trusted_code(str(tmp_path), None, trained | kept) == ("owner/base", FIRST)
    with pytest.raises(PermissionError, match=f"set {TRUSTED}=owner/base@{FIRST},owner/base@{SECOND}$"):
        trusted_code("owner/base", SECOND, base)
    with pytest.raises(PermissionError, match=f"the Python files of owner/base@{SECOND}"):
        trusted_code(str(tmp_path), None, trained | {"code_revision": SECOND})
    monkeypatch.setenv(TRUSTED, str(tmp_path))  # the code is not of this folder
    with pytest.raises(PermissionError, match=f"set {TRUSTED}={tmp_path},owner/base$"):
        trusted_code(str(tmp_path), None, trained)
    mixed = {**trained["auto_map"], "AutoConfig": "modeling.Config"}
    for wrong in (None, {"AutoConfig": "modeling.Config"}, mixed, {**own, "AutoConfig": "../modeling.Config"}):
        with pytest.raises(ValueError, match="has to name AutoConfig and AutoModelForCausalLM of one checkpoint"):
            trusted_code(str(tmp_path), None, {"model_type": "phi3_v", "auto_map": wrong})


def test_a_batch_gives_the_embeddings_of_single_items_whatever_the_side_of_padding(one: MllmEncoder) -> None:
    alone = singles(one)
    for side in ("right", "left"):
        one.padding = side
        for name, found in everything(one).items():
            assert found.shape == (4, 1, 32)
            torch.testing.assert_close(found, alone[name], atol=1e-4, rtol=0, msg=f"{name}, padded {side}")
    query = alone["query"][:, 0]
    assert float((query @ query.T - torch.eye(4)).max()) < 0.999
    assert not torch.allclose(alone["query"], alone["image"], atol=1e-3)


def test_it_is_the_hidden_state_of_its_own_forward_pass_at_the_end(one: MllmEncoder) -> None:
    """Image and words go into the checkpoint's code as its own processor would give them."""
    assert one._layout._around[True] == ("<|user|>\n<|image|>\n", "<|end|>\n<|assistant|>\n")
    with torch.no_grad():
        pixels = one.pixels(images())
        found = one.query_tokens(one.vision_of(pixels), MODIFICATIONS).tokens[:, 0]
        for row, text in enumerate(MODIFICATIONS):
            ids = one._layout.ids([Turn(TEMPLATES.query, text, True)])[0][0]
            at = ids.index(one._family.image_id)
            # Twice 2 rows of 2 vectors and their end, and what parts the two views: 2 x 6 + 1
            whole = torch.tensor([[*ids[:at], *[-1] * 13, *ids[at + 1 :]]])
            views = pixels[row].expand(1, 2, -1, -1, -1)
            states = one.model.model(input_ids=whole, pixel_values=views, image_sizes=[[56, 56]]).last_hidden_state
            expected = torch.nn.functional.normalize(states[0, -1], dim=-1)
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


def test_what_is_trained_and_saved_loads_by_the_code_of_the_original(
    one: MllmEncoder, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(one)
    one.prepare(("tower", "adapter", "language"), rank=4)
    parts = list(one._family.prefixes.values())
    names = [name.removeprefix("model.") for name, _ in one.trainable() if name != "temperature"]
    assert all(any(name.startswith(prefixes) for name in names) for prefixes in parts)
    assert all(".lora_" in name and name.startswith(sum(parts, ())) for name in names)
    run = Trainer(one, LOSS, seed=0, weight_decay=0.0, clip=1.0, dtype="float32")
    for step in range(2):  # in the first, B is zero and A has no gradient
        run.step(step, batch(one, pixels=True), 1e-2)
    one.eval()
    trained = everything(one)
    assert not torch.allclose(trained["query"], before["query"], atol=1e-2)
    saved = tmp_path / "saved"
    one.save(saved)
    assert not list(saved.glob("*.py"))
    again = load_mllm(saved, device="cpu")
    assert again.templates == TEMPLATES
    for name, found in everything(again).items():
        torch.testing.assert_close(found, trained[name], atol=1e-5, rtol=0)
    again.save(tmp_path / "twice")
    for name, found in everything(load_mllm(tmp_path / "twice", device="cpu")).items():
        torch.testing.assert_close(found, trained[name], atol=1e-5, rtol=0)
    monkeypatch.setenv(TRUSTED, str(saved))
    with pytest.raises(PermissionError, match=f"{saved} is .* the Python files of {published}"):
        load_mllm(saved, device="cpu")


def test_what_cannot_embed_is_refused(trusted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = load_mllm(trusted, device="cpu")
    for settings in (("dynamic", None), (None, 4)):
        with pytest.raises(ValueError, match="phi3_v is read at fixed resolution"):
            one.show(*settings)  # type: ignore[arg-type]
    other = changed(trusted, tmp_path / "other", embd_layer={"hd_transform_order": "glb_sub"})
    old = changed(trusted, tmp_path / "old")
    (old / "modeling_phi3_v.py").write_text("from transformers import ClassOfAnOlderVersion\n")
    wordless = changed(trusted, tmp_path / "wordless")
    file = wordless / "tokenizer.json"
    file.write_text(file.read_text().replace("<|image|>", "<|picture|>"))
    colourless = changed(trusted, tmp_path / "colourless")
    (colourless / "preprocessor_config.json").write_text("{}")
    for folder, message in (
        (other, "in the order 'glb_sub'"), (old, "does not run with transformers"), (wordless, r"has no <\|image\|>"),
        (colourless, "lacks image_mean or image_std"),
    ):  # fmt: skip
        monkeypatch.setenv(TRUSTED, str(folder))
        with pytest.raises(ValueError, match=message):
            load_mllm(folder, device="cpu")
