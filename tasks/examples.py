"""The triplets that a retriever is trained on, split by reference, with the features of their images."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.artifact import Artifact
from data.schemas import TRIPLETS
from models.encoders import Encoder
from models.training import Batch, Integers, ranks_of_targets
from tasks.features import Features, FreshFeatures, Picture

# Images or queries per forward pass of a validation.
VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Triplet:
    """A reference image, the change, and the target image."""

    triplet_id: str
    reference_id: str
    modification: str
    target_id: str
    negative_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """What is trained on and what chooses the checkpoint; they share no reference image.

    Attributes:
        training, validation: in the order of their ids.
        gallery: image ids that validation ranks; the targets of validation are among them.
        dropped: triplets that serve neither, by reason.
    """

    training: list[Triplet]
    validation: list[Triplet]
    gallery: list[str]
    dropped: dict[str, int]

    @property
    def image_ids(self) -> set[str]:
        """Every image that the network will see."""
        triplets = [*self.training, *self.validation]
        return {
            *(image for triplet in triplets for image in (triplet.reference_id, triplet.target_id)),
            *(image for triplet in self.training for image in triplet.negative_ids),
            *self.gallery,
        }


def split_triplets(
    triplets: Artifact, known: set[str], validation: float, gallery: int, hard_negatives: int = 0
) -> Split:
    """Read the triplets and hold out a share of their references.

    References are ordered by the hash of their id and the first are held out, whatever the seed of training: all runs
    on the same triplets are judged by the same queries.

    Args:
        triplets: the artifact of `generate`.
        known: ids of all ingested images.
        validation: share of the references that is held out; at least one is.
        gallery: number of images that validation ranks, if there are so many: the targets first, then others by hash.
        hard_negatives: at most so many of each triplet's negatives are used, the first.

    Raises:
        ValueError: if a triplet names an image that was not ingested, fewer than 2 triplets are left to train on, or
            hard negatives are wanted and none has any.
    """
    columns = ["triplet_id", "reference_id", "modification", "target_id", "negative_ids"]
    rows = triplets.read(TRIPLETS, "triplets.parquet").select(columns).to_pylist()
    for row in rows:
        row["negative_ids"] = tuple(row["negative_ids"] or ())[:hard_negatives]
    if rows and hard_negatives and not any(row["negative_ids"] for row in rows):
        raise ValueError(
            f"hard_negatives={hard_negatives}, but none of the {len(rows)} triplets has any; set mine.count to at least"
            f" {hard_negatives}, or hard_negatives=0"
        )
    usable, dropped = _usable(rows, known)
    references = sorted({triplet.reference_id for triplet in usable}, key=_hash)
    held_out = set(references[: max(1, round(validation * len(references)))])
    train = [triplet for triplet in usable if triplet.reference_id not in held_out]
    check = [triplet for triplet in usable if triplet.reference_id in held_out]
    if len(train) < 2:
        raise ValueError(
            f"{len(rows)} triplets leave {len(train)} to train on, after {sum(dropped.values())} unusable ones"
            f" ({dropped or 'none'}) and {len(check)} for validation; at least 2 are needed: generate more"
        )
    targets = {triplet.target_id for triplet in check}
    seen = {image for triplet in usable for image in (triplet.reference_id, triplet.target_id)}
    others = sorted(seen - targets, key=_hash)
    return Split(train, check, sorted([*targets, *others[: max(0, gallery - len(targets))]]), dropped)


def _usable(rows: Sequence[dict[str, Any]], known: set[str]) -> tuple[list[Triplet], dict[str, int]]:
    usable: list[Triplet] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        for role in ("reference_id", "target_id"):
            if row[role] is not None and row[role] not in known:
                raise ValueError(
                    f"triplet {row['triplet_id']!r} has the {role} {row[role]!r}, which is none of the {len(known)}"
                    " ingested images; triplets and images are not of the same run"
                )
        if strangers := set(row["negative_ids"]) - known:
            raise ValueError(
                f"triplet {row['triplet_id']!r} has the negative {min(strangers)!r}, which is none of the {len(known)}"
                " ingested images; triplets and images are not of the same run"
            )
        if row["target_id"] is None:
            dropped["no_target_image"] += 1
        elif row["target_id"] == row["reference_id"]:
            dropped["target_is_reference"] += 1
        else:
            usable.append(Triplet(**row))
    return usable, dict(dropped)


def _hash(image_id: str) -> str:
    return hashlib.sha256(image_id.encode()).hexdigest()


class Examples:
    """The triplets of a split as batches of features."""

    def __init__(
        self, split: Split, features: Features | FreshFeatures, pictures: Sequence[Picture], device: torch.device
    ) -> None:
        """Take the vision features of all the split's images, looked up by the images' bytes."""
        self.split = split
        self._features = features
        self._keys = {picture.image_id: picture.sha256 for picture in pictures}
        self._device = device

    def vision(self, image_ids: Sequence[str]) -> Tensor:
        """(B, P, W) float32 features of the vision tower."""
        features = self._features.take([self._keys[image] for image in image_ids])
        return torch.from_numpy(features).to(self._device, torch.float32)

    def batch(self, rows: Integers, share: slice = slice(None)) -> Batch:
        """Training triplets by their places; of these, the ones in `share` are encoded here."""
        chosen = [self.split.training[row] for row in rows]
        targets = [triplet.target_id for triplet in chosen]
        number = {target: place for place, target in enumerate(dict.fromkeys(targets))}
        codes = torch.tensor([number[target] for target in targets], device=self._device)
        negatives = list(dict.fromkeys(image for triplet in chosen for image in triplet.negative_ids))
        others = torch.tensor([number.get(image, -1) for image in negatives], device=self._device, dtype=codes.dtype)
        return Batch(
            reference=self.vision([triplet.reference_id for triplet in chosen[share]]),
            modifications=[triplet.modification for triplet in chosen[share]],
            target=self.vision(targets[share]),
            same_target=torch.cat([codes, others]).unsqueeze(0) == codes.unsqueeze(1),
            negatives=self.vision(negatives) if negatives else None,
        )

    @torch.no_grad()
    def ranks(self, encoder: Encoder) -> npt.NDArray[np.float64]:
        """Rank of the target, from 1, of every validation triplet; its reference is no candidate."""
        gallery, queries = self.split.gallery, self.split.validation
        place = {image: row for row, image in enumerate(gallery)}
        images = [
            encoder.image_tokens(self.vision(gallery[start : start + VALIDATION_BATCH])).tokens
            for start in range(0, len(gallery), VALIDATION_BATCH)
        ]
        composed = []
        for start in range(0, len(queries), VALIDATION_BATCH):
            part = queries[start : start + VALIDATION_BATCH]
            vision = self.vision([triplet.reference_id for triplet in part])
            composed.append(encoder.query_tokens(vision, [triplet.modification for triplet in part]).tokens)
        targets = torch.tensor([place[triplet.target_id] for triplet in queries], device=self._device)
        barred = torch.tensor([place.get(triplet.reference_id, -1) for triplet in queries], device=self._device)
        return ranks_of_targets(torch.cat(composed), torch.cat(images), targets, barred)
