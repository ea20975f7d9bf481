"""Draws by hash: each name has a lot of its own, so one name more or less changes no other name's draw."""

import heapq
from collections.abc import Iterable
from hashlib import sha256


def lot(purpose: str, seed: int, name: str) -> int:
    """A number of 256 bits, uniform over the seeds.

    Args:
        purpose: tells one draw from another that has the same seed.
        seed: of the draw.
        name: what is drawn for.
    """
    return int(sha256(f"{purpose}\0{seed}\0{name}".encode()).hexdigest(), 16)


def chosen_references(image_ids: Iterable[str], limit: int | None, seed: int) -> list[str]:
    """The images that serve as references: all, or a seeded choice of `limit`, sorted.

    Whoever ranks and whoever samples choose the same ones from the same pool. A larger limit adds to a choice and
    swaps none.

    Args:
        image_ids: distinct ids.
        limit: at least 1, or None for all.
        seed: of the choice.
    """
    if limit is None:
        return sorted(image_ids)
    if limit < 1:
        raise ValueError(f"need a limit of at least 1 reference, or none, got {limit}")
    return sorted(heapq.nsmallest(limit, image_ids, key=lambda image_id: (lot("limit", seed, image_id), image_id)))
