import math

import pytest
from pydantic import PositiveInt, ValidationError

from data.config import Resources, StageConfig


class Depth(StageConfig):
    depth: PositiveInt = 100
    share: float = 0.5


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="dept"):
        Depth(dept=100)  # type: ignore[call-arg]


def test_config_never_changes() -> None:
    config = Depth()
    with pytest.raises(ValidationError, match="frozen"):
        config.depth = 3  # type: ignore[misc]


def test_numbers_without_a_canonical_form_are_refused() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Depth(share=math.nan)


def test_wrong_default_is_found_too() -> None:
    class Wrong(StageConfig):
        depth: PositiveInt = 0

    with pytest.raises(ValidationError, match="greater than 0"):
        Wrong()


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_share_of_memory_is_a_share(share: float) -> None:
    with pytest.raises(ValidationError, match="gpu_memory"):
        Resources(gpu_memory=share)
