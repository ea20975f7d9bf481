"""Answer a benchmark's queries: encode its images, score each query's candidates in tiles, judge the scores."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from data.benchmarks import Benchmark, Query
from data.protocols import Answer, Judge
from models.baselines import Baseline
from models.encoders import Encoder, TextReading, TokenSet
from models.ranking import STRIP_BYTES, STRIP_IMAGES, strip_scores
from models.similarity import Unit, maxsim, normalised
from tasks.pictures import Batch, HalfFloats, Pictures
from tasks.queries import Composer, baseline_queries, text_queries

# Cosines that a graphics card holds at a time while scoring: 128 MB in float32.
COSINES = 2**25
# Scores of as many queries are held at a time, over the whole gallery: 250 MB for CIRCO's. The gallery is read and
# normalised once for all of them.
QUERIES = 512

Advance = Callable[[int], None]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ImageTokens:
    """Tokens of images, usually mapped from a file.

    Attributes:
        tokens: (N, T, D) float16.
        mask: (N, T) bool, True where a token counts.
        rows: (P,) row of each place of `Pictures.ids`, the gallery first.
    """

    tokens: HalfFloats
    mask: npt.NDArray[np.bool_]
    rows: Places

    def at(self, places: Places) -> TokenSet:
        """A copy of the tokens of some places, in their order, on the CPU."""
        rows = self.rows[places]
        return TokenSet(torch.from_numpy(self.tokens[rows]), torch.from_numpy(self.mask[rows]))


class Weighted(NamedTuple):
    """A share of a score: the similarity of these query tokens, (Q, T, D), times a weight."""

    weight: float
    queries: TokenSet


@torch.inference_mode()
def encode_images(
    encoder: Encoder,
    pictures: Pictures,
    path: Path,
    advance: Advance,
    also: Callable[[Batch], None] = lambda batch: None,
    rows: Places | None = None,
) -> ImageTokens:
    """Tokens of all images, mapped from a file.

    Args:
        encoder: the checkpoint.
        pictures: images of the benchmark as features of the vision tower.
        path: the .npy file; replaced.
        advance: told of images encoded.
        also: shown the features of every batch.
        rows: the row that each place gets, a permutation; without it, the places' own order.
    """
    rows = np.arange(len(pictures.ids)) if rows is None else rows
    images: HalfFloats | None = None
    mask: npt.NDArray[np.bool_] = np.zeros((0, 0), dtype=bool)
    for batch in pictures.batches(encoder):
        found = encoder.image_tokens(batch.vision)
        if images is None:
            shape = (len(pictures.ids), *found.tokens.shape[1:])
            images = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
            mask = np.zeros(shape[:2], dtype=bool)
        images[rows[batch.places]] = found.tokens.to("cpu", torch.float16).numpy()
        mask[rows[batch.places]] = found.mask.cpu().numpy()
        also(batch)
        advance(len(batch.places))
    assert images is not None
    return ImageTokens(images, mask, rows)


class Part(NamedTuple):
    """What a share of a score compares: (Q, T, D) query tokens with images, both by one checkpoint."""

    queries: TokenSet
    images: ImageTokens


class Described(NamedTuple):
    """The target texts of a benchmark's queries, and how they are used.

    Attributes:
        texts: in the order of the queries.
        weight: of their similarity in joint inference, which is (1 - weight) * composed + weight * text.
        reading: how the trained checkpoint reads them.
        base: the same texts and the images by the base checkpoint, which takes the trained one's place where that does
            not read texts any more.
    """

    texts: Sequence[str]
    weight: float
    reading: TextReading
    base: Part | None = None


@torch.inference_mode()
def trained_answers(
    encoder: Encoder,
    pictures: Pictures,
    depth: int,
    path: Path,
    advance: Advance,
    described: Described | None = None,
    baselines: Sequence[Baseline] = (),
) -> dict[str, tuple[Answer, ...]]:
    """Answers to a benchmark's queries by a trained checkpoint, by method.

    Args:
        encoder: the checkpoint.
        pictures: images of the benchmark as features of the vision tower.
        depth: ranked images to keep per answer.
        path: file for the image tokens, float16; replaced.
        advance: told of images encoded and queries answered.
        described: where given, also answer by the target texts alone, and jointly (MVFT-JI, arXiv 2505.19707).
        baselines: also answer by these.

    Returns:
        One answer per query, in the order of the benchmark.
    """
    composer = Composer(encoder, pictures)
    images = encode_images(encoder, pictures, path, advance, composer.see)
    judge, composed = Judge(pictures.benchmark, depth), composer.queries()
    if described is None:
        found = {"composed": answer(judge, [Weighted(1.0, composed)], images, advance)}
    else:
        told = described.base
        mixes = {"composed": (1.0, 0.0), "joint": (1 - described.weight, described.weight)}
        if told is None:
            told = Part(text_queries(encoder, described.texts, pictures.batch, described.reading), images)
            mixes["target_text_trained"] = (0.0, 1.0)
        mixed = answer_mixes(judge, [Part(composed, images), told], list(mixes.values()), advance)
        found = dict(zip(mixes, mixed, strict=True))
    if baselines:
        queries = baseline_queries(encoder, pictures, images.at(pictures.references), baselines)
        found |= {name: answer(judge, [Weighted(1.0, queries[name])], images, advance) for name in baselines}
    return found


@torch.inference_mode()
def base_part(encoder: Encoder, pictures: Pictures, path: Path, advance: Advance, texts: Sequence[str]) -> Part:
    """What the base checkpoint compares in joint inference: [CLS] features of the queries' target texts, with the
    images. Arguments as of `trained_answers`."""
    images = encode_images(encoder, pictures, path, advance)
    return Part(text_queries(encoder, texts, pictures.batch), images)


@torch.inference_mode()
def baseline_answers(
    encoder: Encoder,
    pictures: Pictures,
    methods: Sequence[Baseline],
    depth: int,
    path: Path,
    advance: Advance,
    texts: Sequence[str] | None = None,
) -> dict[str, tuple[Answer, ...]]:
    """Answers of the papers' baselines, by method; `texts` adds target_text, their [CLS] features alone. Other
    arguments as of `trained_answers`."""
    images = encode_images(encoder, pictures, path, advance)
    asked = baseline_queries(encoder, pictures, images.at(pictures.references), methods)
    queries: dict[str, TokenSet] = {str(method): found for method, found in asked.items()}
    if texts is not None:
        queries["target_text"] = text_queries(encoder, texts, pictures.batch)
    judge = Judge(pictures.benchmark, depth)
    return {method: answer(judge, [Weighted(1.0, found)], images, advance) for method, found in queries.items()}


@torch.inference_mode()
def answer(judge: Judge, parts: Sequence[Weighted], images: ImageTokens, advance: Advance) -> tuple[Answer, ...]:
    """Answer every query of the judge's benchmark by the weighted sum of mean-of-max similarities.

    Args:
        judge: of the benchmark.
        parts: query tokens in the order of the benchmark's queries.
        images: the gallery's tokens first.
        advance: told of queries answered.
    """
    shares = [Part(part.queries, images) for part in parts]
    (found,) = answer_mixes(judge, shares, [[part.weight for part in parts]], advance)
    return found


@torch.inference_mode()
def answer_mixes(
    judge: Judge,
    parts: Sequence[Part],
    mixes: Sequence[Sequence[float]],
    advance: Advance,
) -> list[tuple[Answer, ...]]:
    """Answers by several weighted sums of the same similarities, which are computed once.

    Only the images that a query ranks are scored for it: a category of FashionIQ, a dozen crops of GeneCIS. The scores
    of the others are NaN, at which the judge does not look. No device holds a gallery.

    Args:
        judge, advance: as of `answer`; a query counts once for each mix.
        parts: query tokens in the order of the benchmark's queries, and the gallery's tokens first.
        mixes: a weight for each part.
    """
    benchmark = judge.benchmark
    found: list[list[Answer | None]] = [[None] * len(benchmark.queries) for _ in mixes]
    step = max(1, QUERIES // len(mixes))
    for asked, places in _groups(benchmark):
        for start in range(0, len(asked), step):
            some = asked[start : start + step]
            scores = np.full((len(mixes), len(some), len(benchmark.gallery)), np.nan, dtype=np.float32)
            for columns, blocks in _tiles(benchmark, some, places, parts):
                for mix, weights in enumerate(mixes):
                    total = sum((weight * block for weight, block in zip(weights, blocks, strict=True)), start=0.0)
                    scores[mix][:, columns] = total
            for mix in range(len(mixes)):
                for place, row in zip(some, scores[mix], strict=True):
                    found[mix][place] = judge.answer(benchmark.queries[place], row)
                advance(len(some))
    return [tuple(one for one in answers if one is not None) for answers in found]


def _groups(benchmark: Benchmark) -> Iterator[tuple[list[int], Places]]:
    """Queries that rank the same images: their places, and those of the images in the gallery."""
    place = {image: at for at, image in enumerate(benchmark.gallery)}
    groups: dict[int, list[int]] = {}
    candidates: dict[int, Query] = {}
    for at, query in enumerate(benchmark.queries):  # thousands share one tuple of candidates
        groups.setdefault(id(query.candidates), []).append(at)
        candidates[id(query.candidates)] = query
    for one, asked in groups.items():
        ranked = candidates[one].candidates
        yield asked, np.array(sorted({place[image] for image in ranked}) if ranked else range(len(place)), np.intp)


def _tiles(
    benchmark: Benchmark, asked: list[int], places: Places, parts: Sequence[Part]
) -> Iterator[tuple[Places, list[npt.NDArray[np.float32]]]]:
    """Similarities of some queries to some images of the gallery: the images' places, and (queries, images) by part."""
    names = [f"of query {benchmark.queries[place].query_id}" for place in asked]
    units = [normalised(part.queries.tokens[asked], part.queries.mask[asked], names) for part in parts]
    device = units[0].tokens.device
    size = min(_strip(part.images.tokens.shape[1:], units, device) for part in parts)
    for first in range(0, len(places), size):
        columns = places[first : first + size]
        shown: dict[int, Unit] = {}  # parts mostly share their images
        blocks = []
        for part, unit in zip(parts, units, strict=True):
            if id(part.images) not in shown:
                tokens, mask = part.images.at(columns)
                ids = [benchmark.gallery[place] for place in columns]
                shown[id(part.images)] = normalised(tokens.to(device), mask.to(device), ids)
            blocks.append(_similarities(unit, shown[id(part.images)]).float().cpu().numpy())
        yield columns, blocks


def _strip(shape: tuple[int, ...], units: Sequence[Unit], device: torch.device) -> int:
    """Images that are normalised and scored at once."""
    if device.type == "cpu":
        return max(1, min(STRIP_IMAGES, STRIP_BYTES // (4 * math.prod(shape))))
    per_image = shape[0] * max(unit.tokens.shape[0] * unit.tokens.shape[1] for unit in units)
    return max(1, COSINES // per_image)


def _similarities(queries: Unit, shown: Unit) -> torch.Tensor:
    """(Q, n) scores: on a processor from tiles that stay in its cache, on a graphics card from one product."""
    if queries.tokens.device.type == "cpu":
        return strip_scores(queries, shown, "reference")
    return maxsim(queries.tokens, shown.tokens, queries.mask, shown.mask)
