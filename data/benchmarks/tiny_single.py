"""The tiny world as CIRR: one target, a subset of five look-alikes, the reference masked."""

from functools import cache

from data.benchmarks import Benchmark
from data.tiny_benchmarks import Plan, make
from data.tiny_edits import KINDS

PLAN = Plan(groups=130, variants=15, queries=5, kinds=KINDS, single=True)
METRICS = ("recall@1", "recall@5", "recall@10", "recall@50", "subset_recall@1", "subset_recall@2", "subset_recall@3")


@cache  # a second to make, and the same every time
def load(split: str = "val") -> Benchmark:
    """About 570 queries in a gallery of 2,730 images; a query whose text fits more than one of them is left out."""
    return make("tiny_single", split, PLAN, {"reference": "mask"}, METRICS)
