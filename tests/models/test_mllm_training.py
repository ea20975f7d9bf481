"""An MLLM in training: gradients from parts and from two processes, what learning changes, templates, the tower."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.encoders.mllm import MllmEncoder
from models.encoders.mllm_family import Part
from models.encoders.mllm_text import Templates
from models.gradients import Processes
from models.objectives import Batch, RetrievalLoss
from models.training import Trainer
from tasks.examples import with_negatives
from tests.models.tiny_llava import noise_images
from tests.models.tiny_mllms import TEMPLATES, encoder
from tests.models.together import assert_equal, two_processes

TEXTS = ["make it red", "add a star", "two blue circle", "remove the square", "a", "it is not green", "red", "now"]
TARGETS = ["a red circle", "a star", "two blue circles", "nothing", "a star", "a blue one", "the red", "left"]
BEFORE = ["a blue circle", "a plain background", "one circle", "a square", "none", "a green one", "a star", "right"]
SETS = (TEMPLATES, Templates("Name it.", "{{caption}} Name it.", "Do: {{modification}}"))
LOSS = RetrievalLoss(("composed_text", "image_caption"), "both")


def batch(one: MllmEncoder, pixels: bool = False) -> Batch:
    """Eight rows with hard negatives; the second and the fifth have the same target, and one of them no negative."""
    with torch.no_grad():
        prepared = one.pixels(noise_images(8))
        shown = prepared if pixels else one.vision_of(prepared)
    negatives = [[text] for text in BEFORE[:4]] + [[]] + [[text] for text in BEFORE[5:]]
    wrong, same_text = with_negatives(TARGETS, negatives)
    wrong_captions, same_caption = with_negatives(BEFORE, [[text] for text in TARGETS])
    return Batch(
        shown, TEXTS, target_texts=TARGETS, same_text=same_text, negative_texts=wrong, captions=BEFORE,
        same_caption=same_caption, wrong_captions=wrong_captions,
    )  # fmt: skip


def prepared(parts: Sequence[Part] = ("adapter", "language"), rank: int | None = 4) -> MllmEncoder:
    one = encoder("llava")
    one.prepare(parts, rank=rank)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for name, weight in one.trainable():
            if "lora_B" in name:  # zero at first, which would leave A without a gradient
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    return one


def gradients(parts: Sequence[Part] = ("adapter", "language"), **options: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step on the eight rows, or on this process's share of them."""
    one = prepared(parts)
    settings: dict[str, Any] = {"seed": 0, "weight_decay": 0.0, "clip": 1e9, "dtype": "float32"}
    run = Trainer(one, LOSS, **(settings | options))
    whole = batch(one, pixels="tower" in parts)
    loss = run.step(3, whole.part(run.processes.share(8)), 0.0)
    return loss, {name: weight.grad for name, weight in run.weights.items() if weight.grad is not None}


@pytest.fixture(scope="module")
def whole() -> tuple[float, dict[str, Tensor]]:
    return gradients()


@pytest.mark.parametrize("rows", [8, 3])  # 3: parts of unequal size
def test_cached_gradients_are_those_of_the_whole_batch(rows: int, whole: tuple[float, dict[str, Tensor]]) -> None:
    loss, found = gradients(cached_rows=rows)
    assert loss == pytest.approx(whole[0], abs=1e-5)
    assert found["temperature"].abs() > 0
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-3
    assert_equal(found, whole[1])


def test_a_trained_tower_runs_within_the_step() -> None:
    loss, found = gradients(("tower", "language"))
    again, parts = gradients(("tower", "language"), cached_rows=3)
    assert any(".vision_tower." in name and float(gradient.abs().max()) > 0 for name, gradient in found.items())
    assert again == pytest.approx(loss, abs=1e-5)
    assert_equal(parts, found)


def in_two(processes: Processes) -> list[tuple[float, dict[str, Tensor]]]:
    """With four of the eight rows each, at once and in parts of three and one."""
    return [gradients(processes=processes, cached_rows=rows) for rows in (None, 3)]


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path: Path, whole: tuple[float, dict[str, Tensor]]) -> None:
    for results in two_processes(__name__, "in_two", tmp_path):
        for loss, slopes in results:
            assert loss == pytest.approx(whole[0], abs=1e-5)
            assert_equal(slopes, whole[1])


def test_templates_vary_in_training_and_are_the_same_in_both_passes_of_a_part() -> None:
    """Otherwise the gradient would be that of no loss: it has to agree with finite differences of the loss."""
    one = prepared(rank=None)
    one.variety = SETS
    settings: dict[str, Any] = {"seed": 0, "weight_decay": 0.0, "clip": 1e9, "dtype": "float32"}
    run = Trainer(one, LOSS, cached_rows=3, **settings)
    data = batch(one)
    weight = one.model.model.multi_modal_projector.linear_2.bias
    run.step(0, data, 0.0)
    slope = float(weight.grad.norm())
    direction = 1e-2 * weight.grad / slope
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign)
        losses.append(run.step(0, data, 0.0))
        with torch.no_grad():
            weight.add_(direction, alpha=-sign)
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(slope, rel=0.05)
    assert run.step(1, data, 0.0) != run.step(0, data, 0.0)  # another step draws other templates
    one.eval()
    with torch.no_grad():
        assert one.text_tokens(TARGETS).tokens.equal(one.text_tokens(TARGETS).tokens)


def test_lora_learns_a_batch_and_leaves_the_rest_alone() -> None:
    one = prepared()
    before = {name: weight.detach().clone() for name, weight in one.named_parameters()}
    data = batch(one)
    run = Trainer(one, LOSS, seed=0, weight_decay=0.0, clip=1.0, dtype="float32")
    losses = [run.step(step, data, 3e-3) for step in range(30)]
    assert losses[-1] < 0.6 * losses[0]
    changed = {name for name, weight in one.named_parameters() if not weight.equal(before[name])}
    assert changed == {name for name, _ in one.trainable()}
