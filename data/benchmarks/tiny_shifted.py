"""The tiny world shifted, to measure transfer: new textures, denser scenes, more edits at once; else as tiny_single.

Stripes run diagonally, dots are checks and backgrounds get darker downwards, which no training image shows; most
scenes begin with three things; half of the queries ask for two changes.
"""

from functools import cache, partial

from data.benchmarks import Benchmark
from data.benchmarks.tiny_single import METRICS
from data.tiny_benchmarks import Plan, make
from data.tiny_drawing import draw
from data.tiny_edits import KINDS

PLAN = Plan(
    groups=110, variants=15, queries=5, kinds=KINDS, single=True, things=(2, 3, 3), second=0.5,
    paint=partial(draw, shifted=True),
)  # fmt: skip


@cache  # a second to make, and the same every time
def load(split: str = "val") -> Benchmark:
    """Some 500 queries in a gallery of 2,310 images; a query whose text fits more than one of them is left out."""
    return make("tiny_shifted", split, PLAN, {"reference": "mask"}, METRICS)
