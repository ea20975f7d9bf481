"""The native kernel against torch, what it says where it cannot be had, and the sieve on top of it."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models import native
from models.native import Kernel, kernel
from models.ranking import Shortlist
from models.sift import sifted
from models.similarity import Direction, Unit, normalised, rounded, rounding_bound, tile


@pytest.fixture
def made() -> Kernel:
    found = kernel()
    if found is None:
        pytest.skip("no native kernel here: it needs a C++ compiler and a processor with AVX-512 VNNI")
    return found


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """The kernel is looked for in the test, and again after it."""
    native.kernel.cache_clear()
    yield
    native.kernel.cache_clear()


def _unit(count: int, tokens: int, dim: int, seed: int, masked: bool = False) -> Unit:
    random = torch.Generator().manual_seed(seed)
    mask = None
    if masked:
        mask = torch.rand(count, tokens, generator=random) < 0.5
        mask[:, tokens // 2] = True
    return normalised(torch.randn(count, tokens, dim, generator=random), mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("t", "s", "dim"), [(1, 1, 1), (1, 5, 3), (32, 32, 64), (33, 17, 30), (70, 2, 6)])
def test_both_passes_are_within_their_bounds(made: Kernel, t: int, s: int, dim: int, masked: bool) -> None:
    queries, gallery = _unit(4, t, dim, 0, masked), _unit(35, s, dim, 1, masked)
    (some, loss), (block, block_loss) = rounded(queries, torch.int16), rounded(gallery, torch.int16)
    wide = [Unit(unit.tokens.double(), unit.mask) for unit in (queries, gallery)]
    rough, fine = made.rough(some, block), made.fine(some, block)
    bound = rounding_bound(torch.int16, dim, max(t, s), loss, float(block_loss.max())).max()
    worst = rough.query_loss[:, 1].max() + rough.gallery_loss[:, 1].max() * (1 + rough.query_loss[:, 1].max())
    for exact, near, far in zip(tile(*wide), fine, rough[:2], strict=True):
        assert exact is not None
        assert (near - exact).abs().max() <= bound < 2e-3
        assert (far - exact).abs().max() <= bound + 1.01 * worst
    assert (rough.query_loss[:, 0] <= rough.query_loss[:, 1] + 1e-9).all()


def test_only_what_is_wanted_is_scored(made: Kernel) -> None:
    some, block = (rounded(_unit(count, 4, 8, count), torch.int16)[0] for count in (5, 40))
    wanted = torch.arange(200).view(5, 40) % 7 == 0
    for whole, part in zip(made.fine(some, block), made.fine(some, block, wanted), strict=True):
        assert torch.equal(part, whole.masked_fill(~wanted, -torch.inf))


def test_the_number_of_threads_changes_nothing(made: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    some, block = (rounded(_unit(count, 4, 8, count, masked=True), torch.int16)[0] for count in (5, 40))
    wanted = torch.arange(200).view(5, 40) % 3 == 0
    alone, rough = made.fine(some, block, wanted), made.rough(some, block)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    for one, other in zip((*alone, *rough), (*made.fine(some, block, wanted), *made.rough(some, block)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("direction", ["reference", "candidate"])
def test_the_sieve_keeps_the_best_and_drops_most_others(made: Kernel, direction: Direction) -> None:
    queries, gallery = _unit(20, 4, 64, 0), _unit(300, 4, 64, 1)
    one, other = rounded(queries, torch.int16), rounded(gallery, torch.int16)
    own, theirs = Shortlist.empty(20, 300, 5), Shortlist.empty(300, 20, 2)
    scores, back = sifted(one, other, direction, own, theirs)
    exact = list(tile(queries, gallery))
    if direction == "candidate":
        exact.reverse()
    assert exact[0] is not None
    assert exact[1] is not None
    best = exact[0].topk(5, dim=1)
    torch.testing.assert_close(scores.gather(1, best.indices), best.values, atol=1e-3, rtol=0)
    best = exact[1].topk(2, dim=0)
    torch.testing.assert_close(back.gather(0, best.indices), best.values, atol=1e-3, rtol=0)
    # Each of 300 images keeps 2 of 20 queries or a few more, each query 5 of 300.
    assert 0.1 < (scores > -torch.inf).float().mean() < 0.5


def test_a_barred_pair_is_no_reason_to_drop_another(made: Kernel) -> None:
    gallery = _unit(30, 2, 16, 0)
    sets = rounded(gallery, torch.int16)
    itself = (torch.arange(30).numpy(), torch.arange(30).numpy())
    # Of itself it is the nearest; with k = 1 the floor must be the next one's.
    scores = sifted(sets, sets, "reference", Shortlist.empty(30, 30, 1), barred=itself)[0]
    scores[itself] = -torch.inf
    exact, _ = tile(gallery, gallery)
    assert exact is not None
    exact.fill_diagonal_(-torch.inf)
    assert torch.equal(scores.argmax(dim=1), exact.argmax(dim=1))


def test_the_kernel_is_compiled_once(made: Kernel) -> None:
    first = native._library(native._processor_flags())
    written = first.stat().st_mtime_ns
    assert native._library(native._processor_flags()).stat().st_mtime_ns == written


@pytest.mark.usefixtures("asked_anew")
def test_without_such_a_processor_or_compiler_it_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(native, "_processor_flags", lambda: frozenset({"avx2", "avx512f"}))
    assert kernel() is None
    native.kernel.cache_clear()
    monkeypatch.setattr(native, "_processor_flags", lambda: frozenset(native.NEEDED))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert kernel() is None
    assert [record.getMessage() for record in caplog.records] == [
        "no native kernel, similarities are computed by torch: no avx512_vnni here",
        "no native kernel, similarities are computed by torch: no C++ compiler was found (c++, g++ or what CXX names)",
    ]


@pytest.mark.usefixtures("asked_anew")
def test_a_failing_compiler_is_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_processor_flags", lambda: frozenset(native.NEEDED))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/c++")
    failed = subprocess.CompletedProcess([], 1, "", "native.cpp:19: error: no\nmore")
    monkeypatch.setattr("subprocess.run", lambda *args, **more: failed)
    assert kernel() is None
    assert caplog.messages == [
        "no native kernel, similarities are computed by torch: /bin/c++ failed: native.cpp:19: error: no"
    ]


@pytest.mark.usefixtures("asked_anew")
def test_a_kernel_that_computes_wrongly_is_not_used(
    made: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = Kernel.fine
    native.kernel.cache_clear()
    monkeypatch.setattr(Kernel, "fine", lambda *args: tuple(scores + 0.01 for scores in right(*args)))
    assert kernel() is None
    assert "its scores are off by 0.01" in caplog.text
