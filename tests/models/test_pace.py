"""What is measured of the machine, and what follows from it."""

import pytest
import torch

from models import pace
from models.pace import OVERHEAD, Pace, measured_pace, pays_to_sweep, quickest


def test_the_quicker_type_is_measured_only_where_it_can_pay() -> None:
    assert quickest(32, 256, 1000) == torch.float32
    assert quickest(4, 16, 10**9) in (torch.float32, torch.bfloat16, torch.int16)


def test_the_native_kernel_is_taken_only_where_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "kernel", lambda: object())
    times = {"torch": 1.0, "native": 0.0}
    monkeypatch.setattr(pace, "_tile_seconds", lambda some, block, dtype: times["torch"])
    monkeypatch.setattr(pace, "_least", lambda work, rounds: times["native"])
    # 512 x 128 images of 4 tokens, for torch and for the kernel.
    times["native"] = 0.74
    assert quickest(4, 16, 10**9) == torch.int16
    times["native"] = 0.76
    assert quickest(4, 16, 10**9) == torch.float32


def test_the_estimate_adds_products_and_settling() -> None:
    found = Pace("float32", score=2.0, pair=3.0, settle=10.0)
    # 3 pairs of 3 images at 3 seconds, and 3 references settled at 10.
    assert found.exact_seconds(3, 3) == pytest.approx(OVERHEAD * (3 * 3 + 3 * 10))
    # One reference against 9 others at 2 seconds: cheaper than all 45 pairs.
    assert found.exact_seconds(1, 10) == pytest.approx(OVERHEAD * (9 * 2 + 10))


def test_a_sweep_pays_for_most_of_the_images() -> None:
    assert pays_to_sweep(100, 100)
    assert not pays_to_sweep(50, 100)


def test_a_measured_pace_is_of_this_world() -> None:
    found = measured_pace(tokens=2, dim=8, depth=5)
    assert found.dtype in ("float32", "bfloat16", "int16")
    assert 0 < found.score < 1e-3
    assert 0 < found.pair < 1e-3
    assert 0 < found.settle < 1
