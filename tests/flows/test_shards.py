"""Shards of rows, and work on them that is made of waiting."""

import os
import time
from functools import partial

import pytest

from data.config import Resources
from tasks.shards import cut, spread

IMAGES = 24


def test_shards_are_whole_batches_and_not_too_many() -> None:
    resources = Resources(batch_size=4, shard=6)
    assert [len(shard) for shard in cut(list(range(20)), resources)] == [8, 8, 4]  # 6 is no multiple of 4, 8 is
    assert [row for shard in cut(range(20), resources) for row in shard] == list(range(20))
    assert len(cut(range(10**6), resources)) <= 100


def test_here_nothing_of_prefect_is_needed() -> None:
    assert list(spread("add", partial(sum, start=1), [[1, 2], [3]], Resources())) == [([1, 2], 4), ([3], 4)]


def wait(seconds: float) -> int:
    """Work made of waiting, as for the answers of a server."""
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("prefect_server", "store")
def test_two_workers_wait_half_as_long_as_one() -> None:
    seconds = []
    for workers in (1, 2):
        began = time.perf_counter()
        list(spread("wait", wait, [1.0] * 10, Resources(spread="threads", spread_workers=workers)))
        seconds.append(time.perf_counter() - began)
    assert seconds[1] <= 0.65 * seconds[0]
