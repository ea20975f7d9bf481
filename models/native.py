"""The similarity of many pairs by a kernel of our own: for processors with AVX-512 VNNI, where a C++ compiler is.

It never stores the cosines, and has two passes: `rough` in 8-bit integers, far off but quick, and `fine` in 16-bit
ones, nearer to the exact score than bfloat16. Without compiler or such a processor everything goes on with torch, and
the same rows come out. There is none for AMX: it could not be tried.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.home import home
from models.similarity import Unit, normalised, rounded, tile

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-std=c++17", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-shared", "-fPIC", "-w")
NEEDED = ("avx512f", "avx512_vnni")
"""What the processor has to have, as Linux names it."""
PATIENCE = 120
"""Seconds that a compiler is given."""


class Rough(NamedTuple):
    """Scores of a rough pass and how far off its tokens are.

    Attributes:
        ahead: (Q, N) float32, s(query, image).
        behind: (Q, N) float32, s(image, query).
        query_loss: (Q, 2) float32, mean and largest norm, over a set's tokens, of 8-bit minus 16-bit token.
        gallery_loss: (N, 2) float32, likewise.
    """

    ahead: Tensor
    behind: Tensor
    query_loss: Tensor
    gallery_loss: Tensor


class Kernel:
    """The compiled kernel; sets are `Unit`s of int16, as `models.similarity.rounded` makes them."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def rough(self, queries: Unit, gallery: Unit) -> Rough:
        """Scores of all pairs in both directions from 8-bit integers."""
        q, g = len(queries.tokens), len(gallery.tokens)
        scores = Rough(torch.empty(q, g), torch.empty(q, g), torch.empty(q, 2), torch.empty(g, 2))

        def part(start: int) -> tuple[object, ...]:
            # Each part packs the queries anew and finds the same losses, so they may all write them.
            return _place(scores.query_loss), _place(scores.gallery_loss, start)

        self._spread(self._library.rough, queries, gallery, scores.ahead, scores.behind, part)
        return scores

    def fine(self, queries: Unit, gallery: Unit, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(Q, N) s(query, image) and (Q, N) s(image, query) from 16-bit integers; -inf where `wanted`, (Q, N) bool, is
        given and False."""
        shape = (len(queries.tokens), len(gallery.tokens))
        ahead, behind = torch.full(shape, -torch.inf), torch.full(shape, -torch.inf)
        asked = None if wanted is None else wanted.contiguous()
        self._spread(
            self._library.fine, queries, gallery, ahead, behind,
            lambda start: (None if asked is None else _place(asked[:, start:]),),
        )  # fmt: skip
        return ahead, behind

    def _spread(
        self,
        work: Callable[..., object],
        queries: Unit,
        gallery: Unit,
        ahead: Tensor,
        behind: Tensor,
        more: Callable[[int], tuple[object, ...]],
    ) -> None:
        """Call the kernel for parts of the gallery on as many threads as torch uses."""
        some, block = _checked(queries), _checked(gallery)
        (q, t, d), (g, s, width) = some.tokens.shape, block.tokens.shape
        if width != d:
            raise ValueError(f"queries have {d} dimensions and the gallery {width}")
        size = max(1, -(-g // torch.get_num_threads()))

        def part(start: int) -> None:
            count = ctypes.c_int64(min(size, g - start))
            mask = None if block.mask is None else _place(block.mask, start)
            own = (_place(some.tokens), None if some.mask is None else _place(some.mask), *map(ctypes.c_int64, (q, t)))
            theirs = (_place(block.tokens, start), mask, count, ctypes.c_int64(s), ctypes.c_int64(d))
            scores = (_place(ahead[:, start:]), _place(behind[:, start:]), ctypes.c_int64(g))
            work(*own, *theirs, *scores, *more(start))

        if q and g:
            starts = range(0, g, size)
            if len(starts) == 1:
                part(0)
                return
            with ThreadPoolExecutor(len(starts)) as pool:  # a call into a library lets other threads run
                list(pool.map(part, starts))


@lru_cache(maxsize=1)
def kernel() -> Kernel | None:
    """The kernel of this machine, compiled below CIRQUE_HOME if it is not there yet and checked against torch; None,
    and one line in the log, where it cannot be had."""
    flags = _processor_flags()
    if missing := [name for name in NEEDED if name not in flags]:
        log.info("no native kernel, similarities are computed by torch: no %s here", " and no ".join(missing))
        return None
    try:
        made = Kernel(_library(flags))
        _check(made)
    except (OSError, subprocess.SubprocessError, ValueError) as reason:
        log.warning("no native kernel, similarities are computed by torch: %s", reason)
        return None
    return made


def _library(flags: frozenset[str]) -> Path:
    """The compiled library, from an earlier run if source, compiler flags and processor are the same."""
    told = "\n".join([SOURCE.read_text(encoding="utf-8"), *FLAGS, *sorted(flags)])
    library = home() / "native" / f"{hashlib.sha256(told.encode()).hexdigest()[:20]}.so"
    if library.exists():
        return library
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("no C++ compiler was found (c++, g++ or what CXX names)")
    library.parent.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_suffix(f".{os.getpid()}")
    try:
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(unfinished)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            raise ValueError(f"{compiler} failed: {(done.stderr.strip().splitlines() or ['without a word'])[0]}")
        unfinished.replace(library)
    finally:
        unfinished.unlink(missing_ok=True)
    return library


def _check(made: Kernel) -> None:
    """Compare with torch on random sets, masked and of odd sizes.

    Raises:
        ValueError: if a score is further off than rounding explains.
    """
    random = torch.Generator().manual_seed(0)
    for (q, t), (g, s), dim in (((5, 32), (37, 32), 64), ((3, 7), (33, 19), 13)):
        sides = []
        for count, size in ((q, t), (g, s)):
            mask = torch.rand(count, size, generator=random) < 0.7
            mask[:, -1] = True
            sides.append(normalised(torch.randn(count, size, dim, generator=random), mask if size != 32 else None))
        expected = tile(*sides)
        some, block = (rounded(side, torch.int16)[0] for side in sides)
        rough, fine = made.rough(some, block), made.fine(some, block)
        for wanted, near, far in zip(expected, fine, rough[:2], strict=True):
            assert wanted is not None
            off, far_off = float((near - wanted).abs().max()), float((far - wanted).abs().max())
            if not (off < 1e-3 and far_off < 0.03):
                raise ValueError(f"its scores are off by {off:.2g} and {far_off:.2g}; please report this machine")


def _checked(unit: Unit) -> Unit:
    if unit.tokens.dtype != torch.int16:
        raise ValueError(f"the kernel reads int16 tokens, got {unit.tokens.dtype}")
    return Unit(unit.tokens.contiguous(), None if unit.mask is None else unit.mask.contiguous())


def _place(tensor: Tensor, row: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size())


def _processor_flags() -> frozenset[str]:
    """What the processor can do, as Linux tells it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())
