"""The triplets of a split as batches for the network, and as queries that choose the checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.encoders import Encoder, TextReading
from models.objectives import Batch, RetrievalLoss
from models.similarity import laid_out
from models.training import Integers, ranks_of_targets
from tasks.features import Features, FreshFeatures, Picture, Pixels
from tasks.splits import Split, Triplet

T = TypeVar("T")

# Images, texts or queries per forward pass of a validation.
VALIDATION_BATCH = 64


class Examples:
    """The triplets of a split as batches of features.

    Attributes:
        split: whose triplets.
        read: the tokens of texts, where they are not the trained network's.
    """

    def __init__(
        self,
        split: Split,
        features: Features | FreshFeatures | Pixels,
        pictures: Sequence[Picture],
        device: torch.device,
        loss: RetrievalLoss | None = None,
        read: "TextTokens | None" = None,
    ) -> None:
        """Take the vision features of all the split's images, looked up by the images' bytes.

        `loss` says how texts are read and tokens compared; without it, as `RetrievalLoss` does by default.
        """
        self.split = split
        self._features = features
        self._keys = {picture.image_id: picture.sha256 for picture in pictures}
        self._device = device
        self._loss = loss or RetrievalLoss()
        self.read = read

    def vision(self, image_ids: Sequence[str]) -> Tensor:
        """(B, P, W) float32 features of the vision tower, or pixels where it is trained."""
        features = self._features.take([self._keys[image] for image in image_ids])
        return torch.from_numpy(features).to(self._device, torch.float32)

    def batch(self, rows: Integers, share: slice = slice(None)) -> Batch:
        """Training triplets of one group by their places; of these, the ones in `share` are encoded here."""
        chosen = [self.split.training[row] for row in rows]
        own = chosen[share]
        serves = chosen[0].serves
        parts: dict[str, object] = {}
        if "composed_image" in serves:
            targets = [str(triplet.target_id) for triplet in chosen]
            wrong, same = with_negatives(targets, [triplet.negative_ids for triplet in chosen])
            parts["target"] = self.vision(targets[share])
            parts["same_target"] = same.to(self._device)
            if wrong[0]:
                flat = self.vision([image for row in wrong[share] for image in row])
                parts["negatives"] = flat.view(len(own), -1, *flat.shape[1:])
        if "composed_text" in serves:
            texts = [str(triplet.target_text) for triplet in chosen]
            wrong, same = with_negatives(texts, [triplet.negative_texts for triplet in chosen], plain_text)
            parts["target_texts"] = texts[share]
            parts["same_text"] = same.to(self._device)
            if wrong[0]:
                parts["negative_texts"] = wrong[share]
        if {"caption_image", "image_caption"} & set(serves):
            captions = [str(triplet.reference_caption) for triplet in chosen]
            alike = equal([triplet.reference_id for triplet in chosen]) | equal([plain_text(one) for one in captions])
            wrong, same = with_negatives(captions, [triplet.wrong_captions for triplet in chosen], plain_text)
            parts["captions"] = captions[share]
            if "image_caption" in serves and wrong[0]:
                parts["wrong_captions"] = wrong[share]
                alike = torch.cat([alike | same[:, : len(chosen)], same[:, len(chosen) :]], dim=1)
            parts["same_caption"] = alike.to(self._device)
        return Batch(
            reference=self.vision([triplet.reference_id for triplet in own]),
            modifications=[triplet.modification for triplet in own],
            read=self.read,
            **parts,  # type: ignore[arg-type]
        )

    @torch.no_grad()
    def ranks(self, encoder: Encoder) -> npt.NDArray[np.float64]:
        """Rank of what is looked for, from 1, of every validation triplet, once for each loss that it serves.

        A reference is no candidate for its composed query.
        """
        found = []
        gallery: Tensor | None = None
        if self.split.gallery:
            images = _parts(self.split.gallery)
            gallery = torch.cat([self._laid_out(encoder.image_tokens(self.vision(some)).tokens) for some in images])
        place = {image: row for row, image in enumerate(self.split.gallery)}
        asked = [one for one in self.split.validation if set(one.serves) - {"caption_image", "image_caption"}]
        composed = self._composed(encoder, asked)
        by_image = [row for row, one in enumerate(asked) if "composed_image" in one.serves]
        if by_image and gallery is not None:
            targets = self._codes([place[str(asked[row].target_id)] for row in by_image])
            barred = self._codes([place.get(asked[row].reference_id, -1) for row in by_image])
            found.append(ranks_of_targets(composed[by_image], gallery, targets, barred))
        by_text = [row for row, one in enumerate(asked) if "composed_text" in one.serves]
        if by_text:
            number = {text: row for row, text in enumerate(self.split.texts)}
            targets = self._codes([number[str(asked[row].target_text)] for row in by_text])
            texts = self._texts(encoder, self.split.texts)
            found.append(ranks_of_targets(composed[by_text], texts, targets, torch.full_like(targets, -1)))
        described = [one for one in self.split.validation if {"caption_image", "image_caption"} & set(one.serves)]
        if described and gallery is not None:
            targets = self._codes([place[one.reference_id] for one in described])
            captions = self._texts(encoder, [str(one.reference_caption) for one in described])
            found.append(ranks_of_targets(captions, gallery, targets, torch.full_like(targets, -1)))
        return np.concatenate(found)

    def _composed(self, encoder: Encoder, triplets: Sequence[Triplet]) -> Tensor:
        """(Q, T, D) tokens of composed queries; (0, 0, 0) for none."""
        parts = [
            encoder.query_tokens(self.vision([one.reference_id for one in some]), [one.modification for one in some])
            for some in _parts(triplets)
        ]
        return torch.cat([self._laid_out(part.tokens) for part in parts]) if parts else torch.empty(0, 0, 0)

    def _texts(self, encoder: Encoder, texts: Sequence[str]) -> Tensor:
        if self.read is not None:
            return self._laid_out(self.read(texts).to(self._device))
        parts = [encoder.text_tokens(some, self._loss.reading) for some in _parts(texts)]
        return torch.cat([self._laid_out(part.tokens) for part in parts])

    def _laid_out(self, tokens: Tensor) -> Tensor:
        return laid_out(tokens, self._loss.similarity)

    def _codes(self, places: Sequence[int]) -> Tensor:
        return torch.tensor(places, device=self._device)


class TextTokens:
    """Tokens of texts as one network reads them, each computed once, before that network changes.

    They are kept in memory, in half precision: 0.5 KB a text at D = 256 and one token. They can be handed to other
    processes, whatever device those compute on.
    """

    def __init__(self, encoder: Encoder, reading: TextReading, texts: Sequence[str]) -> None:
        encoder.eval()
        self._rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        with torch.no_grad():
            parts = [encoder.text_tokens(some, reading).tokens.half().cpu() for some in _parts(list(self._rows))]
        self._tokens = torch.cat(parts).numpy()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, T, D) float32 on the CPU; a KeyError names a text that was not among those given."""
        return torch.from_numpy(self._tokens[[self._rows[text] for text in texts]]).float()


def with_negatives(
    targets: Sequence[str], negatives: Sequence[Sequence[str]], name: Callable[[str], str] = str
) -> tuple[list[list[str]], Tensor]:
    """The same number of negatives for each row, and which columns are no negative of a row.

    Args:
        targets: B ids or texts.
        negatives: those of each row, in any number.
        name: what is the same for those that are the same.

    Returns:
        n of each row, n being the greatest number: where a row has fewer, its target fills the place. And the mask
        (B, B + B n), see `models.objectives.Batch`; what is there already, as a target or as a negative, counts once.
    """
    width = max(map(len, negatives))
    filled = [[*row, *[target] * width][:width] for target, row in zip(targets, negatives, strict=True)]
    columns = [name(one) for one in (*targets, *(one for row in filled for one in row))]
    same = equal(columns)[: len(targets)]
    seen = set(columns[: len(targets)])
    for column in range(len(targets), len(columns)):
        if columns[column] in seen:
            same[:, column] = True
        seen.add(columns[column])
    return filled, same


def equal(names: Sequence[str]) -> Tensor:
    """(N, N) bool: which are the same."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    codes = torch.tensor([number[name] for name in names])
    return codes.unsqueeze(0) == codes.unsqueeze(1)


def plain_text(text: str) -> str:
    """A text without what encoders are blind to: case, and how much white space there is."""
    return " ".join(text.lower().split())


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + VALIDATION_BATCH] for start in range(0, len(items), VALIDATION_BATCH))
