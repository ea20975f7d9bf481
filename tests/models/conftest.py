"""What several tests of models need."""

import pytest
import torch


@pytest.fixture(params=["float32", "bfloat16", "int16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The types of a first pass; int16 is the native kernel's."""
    from models.native import kernel

    if request.param == "int16" and kernel() is None:
        pytest.skip("no native kernel here: it needs a C++ compiler and a processor with AVX-512 VNNI")
    found: torch.dtype = getattr(torch, request.param)
    return found
