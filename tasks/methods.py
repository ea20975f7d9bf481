"""All methods of one checkpoint on one benchmark, over image tokens that are computed once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from data.config import Resources
from data.protocols import Judge
from models.baselines import Baseline
from models.encoders import Encoder, TokenSet
from tasks.answers import Advance, ImageTokens, Weighted, answer
from tasks.gallery import gallery_features
from tasks.measure import COMPOSED, JOINT, TARGET_TEXT, Encoded, Measured, Prepared
from tasks.pictures import Pictures
from tasks.queries import Composer, baseline_queries, text_queries
from tasks.target_texts import TargetTexts
from tasks.templates import worded_for


@dataclass
class Job:
    """One checkpoint and one benchmark; `encode` comes first.

    Attributes:
        prepared: the benchmark.
        pictures: its images.
        encoder: the checkpoint.
        number: the checkpoint's place among `labels`, whose first is compared with the others.
        labels: of all checkpoints; with several, methods are named after theirs.
        depth: ranked images to keep per answer.
        advance: told of images encoded and queries answered.
    """

    prepared: Prepared
    pictures: Pictures
    encoder: Encoder
    number: int
    labels: Sequence[str]
    depth: int
    advance: Advance
    _wording: dict[str, str] = field(default_factory=dict, init=False)
    _images: ImageTokens | None = field(default=None, init=False)
    _queries: TokenSet | None = field(default=None, init=False)

    @torch.inference_mode()
    def encode(self, dtype: str, resources: Resources) -> Encoded:
        """Take the image tokens from the store, or compute them, and compose the queries."""
        self._wording = worded_for(self.encoder, self.prepared.annotations.name)
        composer = Composer(self.encoder, self.pictures)
        images, outcome = gallery_features(
            self.encoder, dtype, self.pictures, resources, self.advance, composer.see
        )  # fmt: skip
        if not composer.complete:
            self.advance(len(self.pictures.ids))
            for batch in self.pictures.batches(self.encoder, composer.references):
                composer.see(batch)
        self._images, self._queries = images, composer.queries()
        count = len(self.pictures.ids)
        return Encoded(
            self.labels[self.number], self.prepared.annotations.name, count, outcome.state, outcome.artifact.key
        )

    @torch.inference_mode()
    def baselines(self, methods: Sequence[Baseline]) -> Iterator[Measured]:
        """The papers' methods that compose nothing."""
        if not methods:
            return
        assert self._images is not None
        references = self._images.at(self.pictures.references)
        for method, queries in baseline_queries(self.encoder, self.pictures, references, methods).items():
            yield self._measured(self.prepared, method, [Weighted(1.0, queries)])

    def composed(self) -> Measured:
        """Reference and modification encoded together."""
        assert self._queries is not None
        return self._measured(self.prepared, COMPOSED, [Weighted(1.0, self._queries)])

    @torch.inference_mode()
    def texts(self, texts: TargetTexts, weight: float) -> list[Measured]:
        """The target text alone, the composed query, and both together.

        A query without a text is answered by the composed query alone: the other two have lost it, and say so. Where
        the targets are hidden the joint answers take the composed one in its place, because a server wants all
        queries. Where no query has a text there is nothing to measure but the composed queries.
        """
        assert self._queries is not None
        known = texts.texts[self.prepared.annotations.name]
        kept = self.prepared.kept(known)
        if not kept:
            return [self.composed()]
        some = self.prepared.only(kept)
        words = [known[query.query_id] for query in some.benchmark.queries]
        written = text_queries(self.encoder, words, self.pictures.batch)
        composed = TokenSet(self._queries.tokens[kept], self._queries.mask[kept])
        told = {"target_texts": texts.writer}
        parts = [Weighted(1 - weight, composed), Weighted(weight, written)]
        alone = self.composed()
        joint = self._measured(some, JOINT, parts, {**told, "weight": f"{weight:g}"})
        if not self.prepared.annotations.metrics:
            joint = filled(joint, alone)
        return [self._measured(some, TARGET_TEXT, [Weighted(1.0, written)], told), alone, joint]

    def _measured(
        self, prepared: Prepared, kind: str, parts: Sequence[Weighted], choices: Mapping[str, str] | None = None
    ) -> Measured:
        assert self._images is not None
        # CIRR's second file ranks the members of a set, which may lie anywhere in the ranking.
        whole = prepared.annotations.name == "cirr" and not prepared.annotations.metrics
        depth = len(prepared.benchmark.gallery) if whole else self.depth
        judge = Judge(prepared.benchmark, depth)
        answers = answer(judge, parts, self._images, self.advance)
        label = self.labels[self.number]
        method = f"{label}/{kind}" if len(self.labels) > 1 else kind
        told = {**self._wording, **(choices or {})}
        return Measured(prepared, label, kind, method, answers, told, self.number == 0)


def filled(measured: Measured, other: Measured) -> Measured:
    """The answers of a method that lost queries, with another's in their place; the choices say how many."""
    own = {answer.query.query_id: answer for answer in measured.answers}
    answers = tuple(own.get(answer.query.query_id, answer) for answer in other.answers)
    lost = len(answers) - len(own)
    told = {f"queries_answered_by_{other.kind}": str(lost)} if lost else {}
    return replace(measured, prepared=other.prepared, answers=answers, choices={**measured.choices, **told})
