"""How good a set of triplets is, from a random sample that people judge."""

from dataclasses import dataclass, replace

from data.metrics import binomial_interval
from tasks.view_source import Source
from tasks.view_table import Question


@dataclass(frozen=True)
class Quality:
    """What the judged part of a sample tells.

    Attributes:
        sample: triplets that were drawn.
        population: those they were drawn from.
        approved, rejected: of the sample, so far.
        share: of good ones among the judged, in [0, 1]; None before anything is judged.
        low, high: ends of its exact 95 % interval (Clopper and Pearson).
    """

    sample: int
    population: int
    approved: int
    rejected: int
    share: float | None
    low: float
    high: float

    @property
    def left(self) -> int:
        """Of the sample, how many nobody judged."""
        return self.sample - self.approved - self.rejected

    def sentence(self) -> str:
        """What may be said, in words."""
        if self.share is None:
            return f"None of the {self.sample:,} triplets of the sample is judged yet."
        judged = self.approved + self.rejected
        words = (
            f"{self.approved:,} of {judged:,} judged triplets are good: {self.share:.1%}"
            f" (95 % interval {self.low:.1%} to {self.high:.1%})."
        )
        if self.sample == self.population and not self.left:
            return f"All {self.sample:,} triplets were judged; {self.approved:,} are good: {self.share:.1%}."
        if self.left:
            words += f" {self.left:,} of the sample are not judged; the interval holds if they were left by chance."
        return words


def quality(source: Source, question: Question) -> Quality:
    """Count what people said of a sample; `question.sample` is its size."""
    everything = source.kept.select(replace(question, sample=None, verdict=None, tag=None, sort=None))
    counts = {
        verdict: len(source.kept.select(replace(question, verdict=verdict, tag=None)))
        for verdict in (None, "approved", "rejected")
    }
    judged = counts["approved"] + counts["rejected"]
    low, high = binomial_interval(counts["approved"], judged) if judged else (0.0, 1.0)
    return Quality(
        counts[None],
        len(everything),
        counts["approved"],
        counts["rejected"],
        counts["approved"] / judged if judged else None,
        low,
        high,
    )
