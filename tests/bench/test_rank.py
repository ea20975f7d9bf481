"""The measurement runs, and its object has what is promised."""

import json

import pytest

from bench import rank

PROMISED = {
    "n", "mode", "backend", "core_seconds", "wall_seconds", "core_seconds_per_reference",
    "einsum_core_seconds_per_reference", "ratio_to_einsum", "agreement", "audited", "peak_gib", "peers",
}  # fmt: skip


@pytest.mark.parametrize("more", [[], ["--mode", "candidates", "--count", "60", "--references", "20", "--slab", "5"]])
def test_one_json_object_with_all_that_is_promised(capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    size = ["--n", "400", "--tokens", "2", "--dim", "8"]
    rank.main([*size, *more, "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told.keys() >= PROMISED
    assert told["n"] == 400
    if not more:
        assert (told["mode"], told["agreement"], told["audited"]) == ("exact", 1.0, 300)
        assert told["peers"]["faiss candidates, re-ranked"]["agreement"] == 1.0  # all images are candidates


def test_a_pool_smaller_than_the_window_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rank.main(["--n", "60"])
    assert "larger than the window's end, 60" in capsys.readouterr().err
