"""Memory per row, in numbers that can be checked by hand."""

import torch
from torch import nn

from models.footprint import forward_bytes, saved_bytes


def test_a_pass_holds_what_its_widest_operation_reads_and_gives() -> None:
    layers = nn.Sequential(nn.Linear(10, 100, bias=False), nn.Linear(100, 20, bias=False))
    # Per row 4 bytes times 10 + 100 in the first layer and 100 + 20 in the second; weights do not count.
    assert forward_bytes(lambda rows: layers(torch.ones(rows, 10))) == 4 * (100 + 20)


def test_gradients_keep_what_they_need_again() -> None:
    layer = nn.Linear(10, 100)
    # The layer's input, 10 floats, and the tanh of its output, 100.
    assert saved_bytes(lambda rows: torch.tanh(layer(torch.ones(rows, 10)))) == 4 * (10 + 100)


def test_of_a_frozen_layer_nothing_is_kept() -> None:
    layer = nn.Linear(10, 100).requires_grad_(False)
    assert saved_bytes(lambda rows: torch.tanh(layer(torch.ones(rows, 10)))) == 0
