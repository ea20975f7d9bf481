"""The triplets that a retriever is trained on: which losses each serves, and which choose the checkpoint."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.artifact import Artifact
from data.schemas import TRIPLETS
from models.terms import Term


@dataclass(frozen=True)
class Triplet:
    """A reference image, the change, and what it leads to: an image, a text, or both.

    Attributes:
        negative_ids, negative_texts: wrong answers near the right one.
        wrong_captions: of the reference, near its caption.
        serves: the losses that it has everything for.
    """

    triplet_id: str
    reference_id: str
    modification: str
    target_id: str | None = None
    target_text: str | None = None
    reference_caption: str | None = None
    negative_ids: tuple[str, ...] = ()
    negative_texts: tuple[str, ...] = ()
    wrong_captions: tuple[str, ...] = ()
    serves: tuple[Term, ...] = ("composed_image",)


@dataclass(frozen=True)
class Split:
    """What is trained on and what chooses the checkpoint; they share no reference image.

    Attributes:
        training: those that serve the same losses next to each other, else in the order of their ids.
        groups: how many of the training triplets serve the same losses, in their order.
        validation: in the order of their ids.
        gallery: image ids that validation ranks; what its queries look for is among them.
        texts: target texts that validation ranks, likewise.
        dropped: triplets that serve neither, by reason.
    """

    training: list[Triplet]
    groups: list[int]
    validation: list[Triplet]
    gallery: list[str]
    texts: list[str]
    dropped: dict[str, int]

    @property
    def read_texts(self) -> list[str]:
        """Every target text and caption that the network will be shown; modifications are not among them."""
        found = dict.fromkeys(self.texts)
        for triplet in [*self.training, *self.validation]:
            told = (triplet.target_text, triplet.reference_caption, *triplet.negative_texts, *triplet.wrong_captions)
            found |= dict.fromkeys(text for text in told if text is not None)
        return list(found)

    @property
    def image_ids(self) -> set[str]:
        """Every image that the network will see."""
        triplets = [*self.training, *self.validation]
        return {
            *(triplet.reference_id for triplet in triplets),
            *(triplet.target_id for triplet in triplets if triplet.target_id is not None),
            *(image for triplet in self.training for image in triplet.negative_ids),
            *self.gallery,
        }


def split_triplets(
    triplets: Artifact,
    known: set[str],
    validation: float,
    gallery: int,
    hard_negatives: int = 0,
    terms: Sequence[Term] = ("composed_image",),
) -> Split:
    """Read the triplets and hold out a share of their references.

    References are ordered by the hash of their id and the first are held out, whatever the seed of training: all runs
    on the same triplets are judged by the same queries.

    Args:
        triplets: the artifact of `generate`.
        known: ids of all ingested images.
        validation: share of the references that is held out; at least one is.
        gallery: number of images, and of texts, that validation ranks, if there are so many: what is looked for first,
            then others by hash.
        hard_negatives: at most so many of each triplet's negative images, and of its negative texts, are used.
        terms: the losses that triplets may serve; one that serves none is dropped.

    Raises:
        ValueError: if a triplet names an image that was not ingested, fewer than 2 triplets are left to train on, or
            hard negatives are wanted and none has any.
    """
    columns = ["triplet_id", "reference_id", "modification", "target_id", "target_text", "reference_caption"]
    table = triplets.read(TRIPLETS, "triplets.parquet").select([*columns, "negative_ids", "negative_texts"])
    rows = table.to_pylist()
    for row in rows:
        for name in ("negative_ids", "negative_texts"):
            row[name] = tuple(dict.fromkeys(row[name] or ()))[:hard_negatives]
        row["wrong_captions"] = _wrong_captions(row)[:hard_negatives]
    kinds = ["negative_ids", "negative_texts", *(["wrong_captions"] if "image_caption" in terms else [])]
    if rows and hard_negatives and not any(row[kind] for row in rows for kind in kinds):
        raise ValueError(
            f"hard_negatives={hard_negatives}, but none of the {len(rows)} triplets has any; set mine.count to at least"
            f" {hard_negatives}, or hard_negatives=0"
        )
    usable, dropped = _usable(rows, known, terms)
    references = sorted({triplet.reference_id for triplet in usable}, key=_hash)
    held_out = set(references[: max(1, round(validation * len(references)))])
    train = [triplet for triplet in usable if triplet.reference_id not in held_out]
    check = [triplet for triplet in usable if triplet.reference_id in held_out]
    train, groups, lonely = _grouped(train)
    if lonely:
        dropped["too_few_of_their_kind"] = lonely
    if not train:
        raise ValueError(
            f"{len(rows)} triplets leave {lonely} to train on, after {sum(dropped.values()) - lonely} unusable ones"
            f" ({dropped or 'none'}) and {len(check)} for validation; at least 2 are needed: generate more"
        )
    return Split(train, groups, check, _gallery(usable, check, gallery), _texts(usable, check, gallery), dropped)


def _usable(
    rows: Sequence[dict[str, Any]], known: set[str], terms: Sequence[Term]
) -> tuple[list[Triplet], dict[str, int]]:
    usable: list[Triplet] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        _refuse_strangers(row, known)
        faults = {term: _fault(row, term) for term in terms}
        serves = tuple(term for term, fault in faults.items() if fault is None)
        if serves:
            usable.append(Triplet(**row, serves=serves))
        else:
            dropped[next(fault for fault in faults.values() if fault is not None)] += 1
    return usable, dict(dropped)


def _fault(row: dict[str, Any], term: Term) -> str | None:
    """Why a row does not serve a loss; None if it does."""
    if term == "composed_text":
        return None if row["target_text"] is not None else "no_target_text"
    if term in ("caption_image", "image_caption"):
        return None if row["reference_caption"] is not None else "no_caption"
    if row["target_id"] is None:
        return "no_target_image"
    return "target_is_reference" if row["target_id"] == row["reference_id"] else None


def _wrong_captions(row: dict[str, Any]) -> tuple[str, ...]:
    """What the reference is to become is wrong of it as it is."""
    known = row["target_text"] is not None and row["reference_caption"] is not None
    return (row["target_text"],) if known and row["target_text"] != row["reference_caption"] else ()


def _refuse_strangers(row: dict[str, Any], known: set[str]) -> None:
    """Raise a ValueError if a triplet names an image that is not there."""
    named = [("reference_id", row["reference_id"]), ("target_id", row["target_id"])]
    for role, image in (*named, *(("negative", image) for image in row["negative_ids"])):
        if image is not None and image not in known:
            raise ValueError(
                f"triplet {row['triplet_id']!r} has the {role} {image!r}, which is none of the {len(known)} ingested"
                " images; triplets and images are not of the same run"
            )


def _grouped(triplets: list[Triplet]) -> tuple[list[Triplet], list[int], int]:
    """The triplets ordered by what they serve, the sizes of these groups, and how many are alone in theirs."""
    groups: dict[tuple[str, ...], list[Triplet]] = {}
    for triplet in triplets:
        groups.setdefault(triplet.serves, []).append(triplet)
    kept = [groups[serves] for serves in sorted(groups) if len(groups[serves]) >= 2]
    return [one for group in kept for one in group], [len(group) for group in kept], len(triplets) - sum(map(len, kept))


def _gallery(usable: list[Triplet], check: list[Triplet], size: int) -> list[str]:
    wanted = {one.target_id for one in check if "composed_image" in one.serves and one.target_id is not None}
    wanted |= {one.reference_id for one in check if {"caption_image", "image_caption"} & set(one.serves)}
    seen = {image for one in usable for image in (one.reference_id, one.target_id) if image is not None}
    others = sorted(seen - wanted, key=_hash)
    return sorted([*wanted, *others[: max(0, size - len(wanted))]])


def _texts(usable: list[Triplet], check: list[Triplet], size: int) -> list[str]:
    asked, seen = (
        {one.target_text for one in some if "composed_text" in one.serves and one.target_text is not None}
        for some in (check, usable)
    )
    others = sorted(seen - asked, key=_hash)
    return sorted([*asked, *others[: max(0, size - len(asked))]])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
