"""The real LAVIS against ours, on the same random weights; and LAVIS's files on their way to a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench import lavis_case as case
from bench.parity import SIZES, CaseEncoder, case_encoder, differences, golden, lavis_weights, loss, ours, theirs
from models import checkpoints
from models.encoders import load_encoder
from models.encoders.blip2 import Blip2Encoder
from models.encoders.lavis import PUBLISHED, TowerName, convert, read_file, write_checkpoint
from models.encoders.towers import ClipBlip2
from tests.models.lavis_files import write_files
from tests.models.tiny_blip2 import noise_images

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=case.TOWERS)
def pair(request: pytest.FixtureRequest) -> tuple[CaseEncoder, dict[str, Tensor]]:
    """Our encoder and LAVIS's outputs."""
    return case_encoder(request.param), theirs(request.param)


@pytest.mark.parametrize("rows", [slice(None), slice(1, 2)], ids=["batch", "batch of one"])
def test_every_pass_equals_lavis(pair: tuple[CaseEncoder, dict[str, Tensor]], rows: slice) -> None:
    encoder, expected = pair
    for name, tokens in ours(encoder, rows).items():
        torch.testing.assert_close(tokens, expected[name][rows], atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    # The readings differ, or they could all be one.
    assert (expected["query_ffn"] - expected["text_ffn"]).abs().max() > 0.01
    assert (expected["query_ffn"] - expected["composed"]).abs().max() > 0.01


def test_the_loss_equals_laviss_but_for_its_label_smoothing(pair: tuple[CaseEncoder, dict[str, Tensor]]) -> None:
    encoder, expected = pair
    found = ours(encoder)
    torch.testing.assert_close(loss(found), expected["loss"], atol=TOLERANCE, rtol=TOLERANCE)
    logits = torch.einsum("ad,btd->abt", found["text"], found["image"]).amax(-1) / 0.07
    torch.testing.assert_close(logits, expected["logits_t2i"], atol=1e-4, rtol=TOLERANCE)
    labels = torch.arange(3)
    smoothed = sum(functional.cross_entropy(way, labels, label_smoothing=0.1) for way in (logits, logits.T)) / 2
    torch.testing.assert_close(smoothed, expected["loss_smoothed"], atol=TOLERANCE, rtol=TOLERANCE)


def test_the_matching_head_is_kept(pair: tuple[CaseEncoder, dict[str, Tensor]]) -> None:
    encoder, expected = pair
    with torch.no_grad():
        vision = encoder.vision_of(torch.from_numpy(case.pixels()))
        ids, mask = encoder.tokenize([])
        hidden = encoder._composed(vision, ids, mask)
        scores = encoder.model.itm_head(hidden)[:, :, 1].mean(dim=1)
    torch.testing.assert_close(scores, expected["matching"], atol=TOLERANCE, rtol=TOLERANCE)


def test_hugging_faces_own_forward_gives_the_same_over_both_towers() -> None:
    found = differences()
    assert list(found) == ["eva, LAVIS", "eva, Hugging Face", "clip, LAVIS", "clip, Hugging Face"]
    assert max(value for side in found.values() for value in side.values()) <= TOLERANCE


def test_the_golden_numbers_say_which_lavis_wrote_them() -> None:
    versions = json.loads(str(golden()["versions"]))
    assert versions["salesforce-lavis"] == "1.0.2"
    assert versions["transformers"].startswith("4.")


def test_published_sizes_are_laviss() -> None:
    # create_eva_vit_g: depth 39, 1408 // 88 heads. create_clip_vit_L: layers 22, of which Transformer builds 21.
    assert {name: (size.heads, size.blocks, size.qformer_heads) for name, size in PUBLISHED.items()} == {
        "eva": (16, 39, 12),
        "clip": (16, 21, 12),
    }


@pytest.mark.parametrize("tower", case.TOWERS)
def test_files_become_a_checkpoint_once(tower: TowerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("models.encoders.lavis.PUBLISHED", SIZES)
    files = write_files(tmp_path / "lavis", tower)
    converted: list[Any] = []

    def counted(*arguments: Any) -> None:
        converted.append(arguments)
        write_checkpoint(*arguments)

    monkeypatch.setattr("models.encoders.lavis.write_checkpoint", counted)
    located = checkpoints.resolve(str(tmp_path / "lavis"))
    assert checkpoints.resolve(f"{files[0]}+{files[1]}") == located
    assert checkpoints.resolve(f"{files[1]}+{files[0]}") == located
    assert len(converted) == 1
    encoder = load_encoder(str(tmp_path / "lavis"), device="cpu")
    assert encoder.digest == located.revision
    assert isinstance(encoder, Blip2Encoder)
    assert isinstance(encoder.model, ClipBlip2) == (tower == "clip")
    assert (encoder.max_text_tokens, encoder.fit) == (case.POSITIONS, "squash")
    assert encoder.temperature.item() == pytest.approx(0.07)
    # The weights are those whose outputs LAVIS wrote down, norms' epsilons included.
    with torch.no_grad():
        vision = encoder.vision_of(torch.from_numpy(case.pixels()))
        image = encoder.image_tokens(vision).tokens
    torch.testing.assert_close(image, theirs(tower)["image"], atol=TOLERANCE, rtol=TOLERANCE)
    # "[DEC]" is the last word; saved and loaded again, all is the same.
    assert encoder.tokenize(["word7 word9"])[0].tolist() == [[2, 7, 9, 3]]
    encoder.save(tmp_path / "again")
    again = load_encoder(str(tmp_path / "again"), device="cpu")
    pictures = noise_images(2)
    with torch.no_grad():
        pairs = [one.query_tokens(one.vision(pictures), ["word7", "word8 word9"]).tokens for one in (encoder, again)]
    assert torch.equal(*pairs)


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    qformer, vision = lavis_weights("eva")
    with pytest.raises(ValueError, match=r"no vision tower; give the tower's file too"):
        convert(qformer, None, SIZES)
    with pytest.raises(ValueError, match=r"no place for: opt_proj\.weight"):
        convert({**qformer, "opt_proj.weight": torch.ones(1)}, vision, SIZES)
    with pytest.raises(ValueError, match=r"no place for: blocks\.0\.gamma_1"):
        convert(qformer, {**vision, "blocks.0.gamma_1": torch.ones(1)}, SIZES)
    name = "Qformer.bert.encoder.layer.2.crossattention.output.dense.bias"
    with pytest.raises(ValueError, match=r"lack 1 weights of the model: qformer\.encoder\.layer\.2\.crossattention"):
        convert({key: weight for key, weight in qformer.items() if key != name}, vision, SIZES)
    with pytest.raises(ValueError, match=r"vision_model\.post_layernorm\.weight is of shape \(3,\)"):
        convert({**qformer, "ln_vision.weight": torch.ones(3)}, vision, SIZES)
    with pytest.raises(ValueError, match=r"neither patch_embed\.proj\.weight"):
        convert(qformer, {"conv.weight": torch.ones(1)}, SIZES)
    # A fine-tuned file brings its own tower, which goes before the published one.
    whole = {**qformer, **{f"visual_encoder.{key}": weight for key, weight in vision.items()}}
    changed = {key: weight + 1 for key, weight in vision.items()}
    one, other = convert(whole, None, SIZES)[0], convert(whole, changed, SIZES)[0]
    assert torch.equal(one.vision_model.embeddings.class_embedding, other.vision_model.embeddings.class_embedding)


def test_wrong_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("models.encoders.lavis.PUBLISHED", SIZES)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.pth"):
        checkpoints.resolve(str(tmp_path / "nothing.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read as weights"):
        read_file(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no table of weights"):
        read_file(tmp_path / "list.pth")
    files = write_files(tmp_path / "lavis", "clip")
    with pytest.raises(ValueError, match="0 hold a Q-Former"):
        write_checkpoint([files[1]], tmp_path / "out")
    (tmp_path / "lavis" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(ValueError, match=r"vocabulary has 6 words with \[DEC\], but the Q-Former has embeddings of 40"):
        write_checkpoint(files, tmp_path / "out")
    (tmp_path / "lavis" / "third.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"blip2\.pth, third\.pth, tower\.pth"):
        checkpoints.resolve(str(tmp_path / "lavis"))
    assert not (tmp_path / "home").exists()
