"""Weights shared by two processes against whole ones: gradients, steps, a state that continues, what is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from models.encoders.mllm import MllmEncoder
from models.gradients import Processes
from models.objectives import Batch
from models.sharding import clip_gradients, gathered, shard
from models.training import Trainer
from tests.models.test_mllm_training import LOSS, batch
from tests.models.tiny_blip2 import tiny_encoder
from tests.models.tiny_mllms import encoder
from tests.models.together import assert_equal, two_processes

FAMILIES = ("llava", "qwen2_5_vl", "phi4_multimodal")
RATE = 1e-3


def trainer(one: MllmEncoder, **options: Any) -> Trainer:
    settings: dict[str, Any] = {"seed": 0, "weight_decay": 0.1, "clip": 0.5, "dtype": "float32"}
    return Trainer(one, LOSS, **(settings | options))


def trained(family: str, processes: Processes | None = None, **options: Any) -> tuple[Trainer, list[float], Batch]:
    """A trainer after two steps, their losses, and this process's rows."""
    one = encoder(family)
    if family == "llava":  # through LoRA, the tower within the steps
        one.prepare(("tower", "language"), rank=4)
    else:
        one.prepare(("adapter", "language"), rank=None)
    whole = batch(one, pixels=one.takes_pixels)
    run = trainer(one, processes=processes, **options)
    share = whole.part(run.processes.share(8))
    return run, [run.step(step, share, RATE) for step in range(2)], share


def slopes(run: Trainer) -> dict[str, Tensor]:
    return {
        name: weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
        for name, weight in run.weights.items()
        if weight.grad is not None
    }


def parameters(run: Trainer) -> dict[str, Tensor]:
    """All weights, frozen ones too."""
    assert isinstance(run.encoder, MllmEncoder)
    return dict(run.encoder.named_parameters())


def in_two(processes: Processes) -> dict[str, Any]:
    """By family: losses, clipped gradients and weights after three steps, the third from a state that was kept."""
    processes.sharded = True
    found = {}
    for family in FAMILIES:
        run, losses, share = trained(family, processes, cached_rows=3)
        held = sum(weight.to_local().numel() for weight in run.weights.values() if isinstance(weight, DTensor))
        again, _, _ = trained(family, processes, cached_rows=3)
        again.resume(run.state())
        losses.append(again.step(2, share, RATE))
        weights, gradients = again.snapshot(), slopes(again)
        gathered(again.encoder)
        assert not any(isinstance(weight, DTensor) for weight in again.encoder.parameters())
        saved = {name: weight.detach() for name, weight in parameters(again).items()}
        found[family] = {"losses": losses, "held": held, "gradients": gradients, "weights": weights, "saved": saved}
    return found


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_as_one_does(tmp_path: Path) -> None:
    results = two_processes(__name__, "in_two", tmp_path)
    for family in FAMILIES:
        run, losses, share = trained(family)
        losses.append(run.step(2, share, RATE))
        every = sum(weight.numel() for weight in run.weights.values())
        assert sum(result[family]["held"] for result in results) == every - 1  # the temperature is in both, and whole
        assert max(result[family]["held"] for result in results) < 0.6 * every
        for result in results:
            assert result[family]["losses"] == pytest.approx(losses, abs=1e-5)
            assert_equal(result[family]["gradients"], slopes(run))
            assert_equal(result[family]["weights"], run.snapshot())
            assert_equal(result[family]["saved"], parameters(run))


def test_a_q_former_is_not_shared() -> None:
    with pytest.raises(ValueError, match=r"resources\.sharded shares the weights of a multimodal language model"):
        shard(tiny_encoder(), 2)


def test_the_norm_is_that_of_all_gradients() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    clip_gradients(weights, 1.0)  # the norm is 5
    torch.testing.assert_close(weights[0].grad, torch.tensor([0.6, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(weights[1].grad, torch.tensor([0.0, 0.8]), atol=1e-4, rtol=0)
