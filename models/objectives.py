"""What a retriever is trained to do: batches of triplets, and the contrastive losses over their tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from models.encoders import TextReading, TokenSet, TrainableEncoder
from models.losses import info_nce
from models.similarity import laid_out
from models.terms import Similarity, Term


@dataclass(frozen=True)
class Batch:
    """B triplets, ready for the network; all of them have what the batch has.

    In all three masks the first B columns are the rows' own candidates, and True says that the candidate of column j
    is as right an answer to row i. With n negatives a row, column B + i n + k is the k-th of row i, and True also
    where it only fills a place or repeats another column. Masks are of the whole batch, also where the rows are one
    process's share.

    Attributes:
        reference: (B, P, W) vision features of the references.
        modifications: B texts.
        target: (B, P, W) vision features of the targets.
        same_target: (B, B) or (B, B + B n) bool.
        negatives: (B, n, P, W) vision features of hard negatives, wrong answers to every query but for `same_target`.
        target_texts: B texts of targets.
        same_text: as `same_target`, of the target texts and negative texts.
        negative_texts: n texts of each row.
        captions: B texts of the references.
        same_caption: (B, B) bool, True where image j is described by caption i; with wrong captions (B, B + B n).
        wrong_captions: n texts of each row that are wrong of its reference.
        read: from texts to their tokens, (B, T, D), where these are not the trained network's.
    """

    reference: Tensor
    modifications: Sequence[str]
    target: Tensor | None = None
    same_target: Tensor | None = None
    negatives: Tensor | None = None
    target_texts: Sequence[str] | None = None
    same_text: Tensor | None = None
    negative_texts: Sequence[Sequence[str]] | None = None
    captions: Sequence[str] | None = None
    same_caption: Tensor | None = None
    wrong_captions: Sequence[Sequence[str]] | None = None
    read: Callable[[Sequence[str]], Tensor] | None = None

    @property
    def whole(self) -> int:
        """Rows of the whole batch, as its masks have them."""
        for mask in (self.same_target, self.same_text, self.same_caption):
            if mask is not None:
                return len(mask)
        raise ValueError("a batch needs a target image, a target text or a caption for its rows; it has none of them")

    def part(self, rows: slice) -> "Batch":
        """Some of the rows, to be encoded; the masks stay whole."""
        return Batch(
            reference=self.reference[rows],
            modifications=self.modifications[rows],
            target=None if self.target is None else self.target[rows],
            same_target=self.same_target,
            negatives=None if self.negatives is None else self.negatives[rows],
            target_texts=None if self.target_texts is None else self.target_texts[rows],
            same_text=self.same_text,
            negative_texts=None if self.negative_texts is None else self.negative_texts[rows],
            captions=None if self.captions is None else self.captions[rows],
            same_caption=self.same_caption,
            wrong_captions=None if self.wrong_captions is None else self.wrong_captions[rows],
            read=self.read,
        )


Objective = Callable[[TrainableEncoder, Batch], Mapping[str, Tensor]]
"""From a batch to named losses, scalars in nats; their sum is minimised."""


@dataclass(frozen=True)
class RetrievalLoss:
    """InfoNCE over mean-of-max similarity, for each of some terms that a batch has the rows for; the sum counts.

    Rows with the same target (image or text) are right answers to each other and no negatives. Hard negatives of all
    rows are negatives of each.

    Attributes:
        terms: which losses; see `models.terms.Term`.
        directions: "both" also asks each candidate for its query.
        reading: how target texts and captions become tokens; see `models.encoders.TextReading`.
        similarity: how two sets of tokens are compared; see `models.terms.Similarity`.
    """

    terms: tuple[Term, ...] = ("composed_image",)
    directions: Literal["one", "both"] = "one"
    reading: TextReading = "cls"
    similarity: Similarity = "max"

    def __call__(self, encoder: TrainableEncoder, batch: Batch) -> dict[str, Tensor]:
        return self.losses(self.encode(encoder, batch), encoder.temperature, batch)

    def encode(self, encoder: TrainableEncoder, batch: Batch) -> dict[str, Tensor]:
        """Tokens by name, (B, T, D) each, those of hard negatives (B, n, T, D)."""
        found: dict[str, Tensor] = {}
        served = self.served(batch)
        if {"composed_image", "composed_text"} & set(served):
            found["query"] = self._laid_out(encoder.query_tokens(batch.reference, batch.modifications))
        if "composed_image" in served and batch.target is not None:
            found["target"] = self._laid_out(encoder.image_tokens(batch.target))
            if batch.negatives is not None:
                flat = self._laid_out(encoder.image_tokens(batch.negatives.flatten(0, 1)))
                found["negatives"] = flat.view(*batch.negatives.shape[:2], *flat.shape[1:])
        if "composed_text" in served and batch.target_texts is not None:
            found["text"] = self._read(encoder, batch, batch.target_texts)
            if batch.negative_texts is not None:
                found["negative_texts"] = self._of_rows(encoder, batch, batch.negative_texts)
        if {"caption_image", "image_caption"} & set(served) and batch.captions is not None:
            found["caption"] = self._read(encoder, batch, batch.captions)
            found["image"] = self._laid_out(encoder.image_tokens(batch.reference))
            if "image_caption" in served and batch.wrong_captions is not None:
                found["wrong_captions"] = self._of_rows(encoder, batch, batch.wrong_captions)
        return found

    def _read(self, encoder: TrainableEncoder, batch: Batch, texts: Sequence[str]) -> Tensor:
        """(B, T, D) tokens of texts."""
        if batch.read is not None:
            return laid_out(batch.read(texts).to(encoder.device), self.similarity)
        return self._laid_out(encoder.text_tokens(texts, self.reading))

    def _of_rows(self, encoder: TrainableEncoder, batch: Batch, rows: Sequence[Sequence[str]]) -> Tensor:
        """(B, n, T, D) tokens of n texts a row."""
        flat = self._read(encoder, batch, [text for row in rows for text in row])
        return flat.view(len(rows), -1, *flat.shape[1:])

    def losses(self, tokens: Mapping[str, Tensor], temperature: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms over all rows; of the batch only the masks are looked at."""
        described = None if batch.same_caption is None else batch.same_caption[:, : len(batch.same_caption)]
        pairs = {
            "composed_image": ("query", "target", "negatives", batch.same_target),
            "composed_text": ("query", "text", "negative_texts", batch.same_text),
            "caption_image": ("caption", "image", "", described),
            "image_caption": ("image", "caption", "wrong_captions", batch.same_caption),
        }
        found: dict[str, Tensor] = {}
        for term in self.served(batch):
            query, target, wrong, same = pairs[term]
            negatives = tokens[wrong].flatten(0, 1) if wrong in tokens else None
            found[term] = info_nce(
                tokens[query], tokens[target], temperature, negatives=negatives, same_target=same,
                directions=self.directions,
            )  # fmt: skip
        return found

    def served(self, batch: Batch) -> tuple[Term, ...]:
        """The terms that a batch has the rows for.

        Raises:
            ValueError: if it has them for none.
        """
        has = {
            "composed_image": batch.target is not None,
            "composed_text": batch.target_texts is not None,
            "caption_image": batch.captions is not None,
            "image_caption": batch.captions is not None,
        }
        served = tuple(term for term in self.terms if has[term])
        if not served:
            raise ValueError(f"the batch has nothing for {' and '.join(self.terms)}; it has {has}")
        return served

    def _laid_out(self, found: TokenSet) -> Tensor:
        return laid_out(found.tokens, self.similarity)
