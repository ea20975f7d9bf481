"""Gradients from parts and from several processes against those of the whole batch in one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.encoders.blip2 import Blip2Encoder
from models.gradients import Processes
from models.objectives import Batch, RetrievalLoss
from models.terms import TERMS
from models.training import DivergedError, Trainer
from tests.models.tiny_blip2 import noise_images, tiny_encoder
from tests.models.together import assert_equal, two_processes

TEXTS = ["make it red", "add a star", "two blue circle", "remove the square", "a", "it is not green", "red", "now"]


def batch(encoder: Blip2Encoder) -> Batch:
    """Eight rows; the second and the fifth have the same target."""
    reference, target = (encoder.vision(noise_images(8, seed=place)) for place in (0, 1))
    target[4] = target[1]
    same = torch.eye(8, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True
    return Batch(reference, TEXTS, target, same)


def full(encoder: Blip2Encoder) -> Batch:
    """The same with target texts, captions and two hard negatives of each kind a row."""
    plain = batch(encoder)
    assert plain.same_target is not None
    wide = torch.cat([plain.same_target, torch.zeros(8, 16, dtype=torch.bool)], dim=1)
    wide[3, 8] = True  # the first negative of row 0 is as right for row 3
    wide[:, 8 + 2 * 2 + 1] = True  # the second of row 2 only fills its place
    return Batch(
        reference=plain.reference,
        modifications=plain.modifications,
        target=plain.target,
        same_target=wide,
        negatives=torch.stack([encoder.vision(noise_images(8, seed=place)) for place in (2, 3)], dim=1),
        target_texts=TEXTS[::-1],
        same_text=wide,
        negative_texts=[[f"{text} circle", f"not {text}"] for text in TEXTS],
        captions=[f"the {text}" for text in TEXTS],
        same_caption=plain.same_target,
    )


def share(whole: Batch, processes: Processes) -> Batch:
    return whole.part(processes.share(len(whole.modifications)))


def trainer(encoder: Blip2Encoder, **options: object) -> Trainer:
    settings: dict[str, object] = {"seed": 0, "weight_decay": 0.0, "clip": 1e9, "dtype": "float32"}
    return Trainer(encoder, **({"objective": RetrievalLoss(TERMS, "both")} | settings | options))  # type: ignore[arg-type]


def gradients(**options: object) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step on the eight rows, or on this process's share of them."""
    encoder = tiny_encoder()
    encoder.set_dropout(0.0)
    run = trainer(encoder, **options)
    loss = run.step(3, share(full(encoder), run.processes), 0.0)
    return loss, {name: weight.grad for name, weight in run.weights.items() if weight.grad is not None}


@pytest.fixture(scope="module")
def whole() -> tuple[float, dict[str, Tensor]]:
    return gradients()


@pytest.mark.parametrize("rows", [8, 4, 3, 1])  # 3: parts of unequal size
def test_cached_gradients_are_those_of_the_whole_batch(rows: int, whole: tuple[float, dict[str, Tensor]]) -> None:
    loss, found = gradients(cached_rows=rows)
    assert loss == pytest.approx(whole[0], abs=1e-5)
    assert found["temperature"].abs() > 0
    assert_equal(found, whole[1], atol=1e-6)


def test_texts_that_are_given_have_no_gradient_in_parts_or_whole() -> None:
    base = tiny_encoder(seed=1)

    def read(texts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            return base.text_tokens(texts).tokens

    found = []
    for rows in (None, 3):
        encoder = tiny_encoder()
        encoder.set_dropout(0.0)
        run = trainer(encoder, cached_rows=rows)
        run.step(3, replace(full(encoder), read=read), 0.0)
        found.append({name: weight.grad for name, weight in run.weights.items() if weight.grad is not None})
    assert_equal(found[1], found[0], atol=1e-6)
    assert not any("text_projection" in name for name in found[0])  # only [CLS] of a text goes through it


def test_dropout_is_the_same_in_both_passes() -> None:
    """Otherwise the gradient would be that of no loss: it has to agree with finite differences of the loss."""
    encoder = tiny_encoder()
    encoder.set_dropout(0.3)
    run = trainer(encoder, cached_rows=3)
    data, weight = batch(encoder), encoder.model.query_tokens
    run.step(0, data, 0.0)
    slope = float(weight.grad.norm())
    direction = 1e-3 * weight.grad / slope
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign)
        losses.append(run.step(0, data, 0.0))
        with torch.no_grad():
            weight.add_(direction, alpha=-sign)
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=0.05)
    assert run.step(1, data, 0.0) != run.step(0, data, 0.0)  # another step draws another dropout


def test_a_nan_in_one_part_stops_the_step() -> None:
    encoder = tiny_encoder()
    run, data = trainer(encoder, cached_rows=2), batch(encoder)
    data.reference[5] = torch.nan
    before = run.snapshot()
    with pytest.raises(DivergedError, match="row 5 of the batch"):
        run.step(0, data, 1e-3)
    assert all(torch.equal(before[name], value) for name, value in run.snapshot().items())


def test_what_cannot_be_taken_in_parts_is_refused() -> None:
    encoder = tiny_encoder()
    with pytest.raises(TypeError, match="encodes rows and then compares"):
        Trainer(encoder, lambda *_: {}, seed=0, weight_decay=0, clip=1, dtype="float32", cached_rows=2)
    alone = Processes()
    assert alone.share(7) == slice(0, 7)
    alone.size = 2
    with pytest.raises(ValueError, match="a batch of 7 cannot be shared evenly by 2 processes"):
        alone.share(7)
    run = trainer(encoder, cached_rows=4)
    with pytest.raises(ValueError, match="1 processes with 4 rows each, but the batch's masks speak of 8"):
        run.step(0, batch(encoder).part(slice(0, 4)), 0.0)


def in_two(processes: Processes) -> tuple[int, list[tuple[float, dict[str, Tensor]]]]:
    """What the first decides; and with four of the eight rows each, at once and in parts of three and one."""
    found = [gradients(processes=processes, cached_rows=rows) for rows in (None, 3)]
    return processes.agree(lambda: processes.rank + 10), found


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path: Path, whole: tuple[float, dict[str, Tensor]]) -> None:
    for decided, results in two_processes(__name__, "in_two", tmp_path):
        assert decided == 10
        for loss, slopes in results:
            assert loss == pytest.approx(whole[0], abs=1e-5)
            assert_equal(slopes, whole[1], atol=1e-6)
