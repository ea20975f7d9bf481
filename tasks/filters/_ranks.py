"""Where a target stands among other images when the encoder is asked with less than the whole query."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from data.draws import chosen_references
from data.tokens import read_tokens
from models.ranking import Integers, TokenSets, first_pass
from models.similarity import exact_scores
from tasks.filters import World


class Gallery(NamedTuple):
    """Images that a target is ranked among.

    Attributes:
        pool: tokens of all ingested images.
        place: row of each image in the pool.
        sample: tokens of the gallery.
        within: row of each of the gallery's images.
    """

    pool: TokenSets
    place: dict[str, int]
    sample: TokenSets
    within: dict[str, int]


def gallery_of(world: World, size: int, seed: int) -> Gallery:
    """The whole pool if it has at most `size` images, else as many drawn by seed and id."""
    ids, array = read_tokens(world.tokens.file("tokens.arrow"))
    some = chosen_references(ids, size, seed)
    place, within = ({image: row for row, image in enumerate(names)} for names in (ids, some))
    sample = TokenSets(some, array if len(some) == len(ids) else array[[place[image] for image in some]])
    return Gallery(TokenSets(ids, array), place, sample, within)


def ranks(
    queries: npt.NDArray[np.float32], targets: Sequence[str], references: Sequence[str], gallery: Gallery
) -> Integers:
    """Rank of each target among the gallery, from 1; the target itself need not be in it, the reference never is.

    Args:
        queries: (Q, T, D) tokens.
        targets, references: Q image ids.
        gallery: the others.
    """
    asked = TokenSets([str(row) for row in range(len(queries))], queries)
    own = torch.stack(
        [
            exact_scores(
                torch.from_numpy(queries[row]), gallery.pool.rows(np.array([gallery.place[target]]))[0], "reference"
            )[0]
            for row, target in enumerate(targets)
        ]
    ).unsqueeze(1)
    barred = np.array([gallery.within.get(reference, -1) for reference in references], dtype=np.int64)
    itself = np.array([gallery.within.get(target, -1) for target in targets], dtype=np.int64)
    found = np.ones(len(queries), dtype=np.int64)
    for start, scores, bound in first_pass(asked, gallery.sample, "reference", barred, torch.float32):
        here = np.flatnonzero((itself >= start) & (itself < start + scores.shape[1]))
        scores[here, itself[here] - start] = -torch.inf
        found += (scores > own + bound.unsqueeze(1)).sum(dim=1).numpy()
    return found
