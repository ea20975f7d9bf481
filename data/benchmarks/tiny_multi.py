"""The tiny world as CIRCO: texts that leave something open, several targets, the reference kept."""

from functools import cache

from data.benchmarks import Benchmark
from data.tiny_benchmarks import Plan, make
from data.tiny_edits import KINDS

# Negations, counts and additions leave something open and come more often.
PLAN = Plan(
    groups=130, variants=6, queries=5, kinds=(*KINDS, *("negation", "count", "addition") * 3), single=False, siblings=3
)
METRICS = ("map@5", "map@10", "map@25", "map@50", "recall@1", "recall@5", "recall@10")


@cache  # a second to make, and the same every time
def load(split: str = "val") -> Benchmark:
    """650 queries in a gallery of about 2,180 images; a query's targets are all images that its text can lead to."""
    return make("tiny_multi", split, PLAN, {"reference": "keep"}, METRICS)
