"""Answer a benchmark's queries with one checkpoint: encode images and queries, score every image for every query."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.benchmarks import Benchmark
from data.protocols import Answer, Judge
from models.baselines import Baseline, baseline_query
from models.encoders import Encoder, TokenSet
from models.similarity import maxsim, normalised
from tasks.pictures import Pictures

# Cosines held at a time while scoring: 128 MB in float32.
COSINES = 2**25
# Scores of as many queries are held at a time, over the whole gallery.
QUERIES = 128

Advance = Callable[[int], None]


@torch.inference_mode()
def composed_answers(
    encoder: Encoder, pictures: Pictures, depth: int, path: Path, advance: Advance, judge: Judge | None = None
) -> tuple[Answer, ...]:
    """Answers to a benchmark's queries, reference and modification encoded together.

    Args:
        encoder: a trained checkpoint.
        pictures: images of the benchmark as features of the vision tower.
        depth: ranked images to keep per answer.
        path: file for the image tokens, float16; replaced.
        advance: told of images encoded and queries answered.
        judge: scores the answers; without it, a `Judge` of the benchmark that keeps `depth` images.

    Returns:
        One answer per query, in the order of the benchmark.
    """
    owners, texts = _texts(pictures.benchmark)
    asked: dict[int, list[int]] = {}  # place of a reference -> its rows of `texts`
    for row, owner in enumerate(owners.tolist()):
        asked.setdefault(pictures.place[pictures.benchmark.queries[owner].reference_id], []).append(row)
    parts: list[TokenSet] = []
    order: list[int] = []

    def compose(start: int, vision: Tensor) -> None:
        rows = [(place, row) for place in range(len(vision)) for row in asked.get(start + place, [])]
        for first in range(0, len(rows), pictures.batch):
            some = rows[first : first + pictures.batch]
            mine = vision[[place for place, _ in some]]
            parts.append(encoder.query_tokens(mine, [texts[row] for _, row in some]))
            order.extend(row for _, row in some)

    images = _image_tokens(encoder, pictures, path, advance, compose)
    queries = _per_query(parts, owners[order])
    return tuple(_answers(judge or Judge(pictures.benchmark, depth), queries, images, advance))


@torch.inference_mode()
def baseline_answers(
    encoder: Encoder,
    pictures: Pictures,
    methods: Sequence[Baseline],
    depth: int,
    path: Path,
    advance: Advance,
    judge: Judge | None = None,
) -> dict[Baseline, tuple[Answer, ...]]:
    """Answers of the papers' baselines, by method; arguments as of `composed_answers`."""
    images = _image_tokens(encoder, pictures, path, advance)
    owners, texts = _texts(pictures.benchmark)
    places = torch.tensor([pictures.place[query.reference_id] for query in pictures.benchmark.queries])
    parts: dict[Baseline, list[TokenSet]] = {method: [] for method in methods}
    for start in range(0, len(texts), pictures.batch):
        some = slice(start, start + pictures.batch)
        text = encoder.text_tokens(texts[some])
        mine = places[owners[some]]
        tokens = images.tokens[mine].to(text.tokens)
        image = TokenSet(normalize(tokens, dim=-1), images.mask[mine].to(text.mask.device))
        for method in methods:
            parts[method].append(baseline_query(method, image, text))
    judge = judge or Judge(pictures.benchmark, depth)
    return {method: tuple(_answers(judge, _per_query(parts[method], owners), images, advance)) for method in methods}


def _image_tokens(
    encoder: Encoder,
    pictures: Pictures,
    path: Path,
    advance: Advance,
    also: Callable[[int, Tensor], None] = lambda start, vision: None,
) -> TokenSet:
    """(N, T, D) float16 tokens of `pictures.ids`, the gallery first, on the CPU and mapped from the file at `path`.

    `also` is shown the features of every batch and the place of its first image.
    """
    images: npt.NDArray[np.float16] | None = None
    masks = []
    for start, vision in pictures.batches(encoder):
        found = encoder.image_tokens(vision)
        if images is None:
            shape = (len(pictures.ids), *found.tokens.shape[1:])
            images = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
        images[start : start + len(vision)] = found.tokens.to("cpu", torch.float16).numpy()
        masks.append(found.mask.cpu())
        also(start, vision)
        advance(len(vision))
    return TokenSet(torch.from_numpy(images), torch.cat(masks))


def _texts(benchmark: Benchmark) -> tuple[Tensor, list[str]]:
    """Place of each text's query, and the texts: one a query, or each of its phrasings."""
    pairs = [
        (place, text)
        for place, query in enumerate(benchmark.queries)
        for text in query.phrasings or (query.modification,)
    ]
    return torch.tensor([place for place, _ in pairs]), [text for _, text in pairs]


def _per_query(parts: list[TokenSet], owners: Tensor) -> TokenSet:
    """(Q, T, D) tokens per query: the mean over its phrasings, normalised. Row i of the parts belongs to owners[i]."""
    tokens = torch.cat([part.tokens for part in parts])
    mask = torch.cat([part.mask for part in parts])
    owners = owners.to(tokens.device)
    queries = int(owners.max()) + 1
    sums = tokens.new_zeros(queries, *tokens.shape[1:])
    sums.index_add_(0, owners, tokens.masked_fill(~mask.unsqueeze(-1), 0))
    counts = tokens.new_zeros(queries, mask.shape[1]).index_add_(0, owners, mask.to(tokens.dtype))
    return TokenSet(normalize(sums, dim=-1), counts > 0)


def _answers(judge: Judge, queries: TokenSet, images: TokenSet, advance: Advance) -> Iterator[Answer]:
    """Answer every query of the judge's benchmark, in order, by the mean of maximal cosines."""
    benchmark = judge.benchmark
    size = len(benchmark.gallery)
    device = queries.tokens.device
    per_pair = queries.tokens.shape[1] * images.tokens.shape[1]
    block = max(1, min(QUERIES, COSINES // per_pair))
    tile = max(1, COSINES // (per_pair * block))
    names = [f"of query {query.query_id}" for query in benchmark.queries]
    for start in range(0, len(benchmark.queries), block):
        some = slice(start, start + block)
        asked = normalised(queries.tokens[some], queries.mask[some], names[some])
        scores = np.empty((len(asked.tokens), size), dtype=np.float32)
        for first in range(0, size, tile):
            here = slice(first, min(first + tile, size))
            tokens, mask = images.tokens[here].to(device), images.mask[here].to(device)
            shown = normalised(tokens, mask, benchmark.gallery[here])
            scores[:, here] = maxsim(asked.tokens, shown.tokens, asked.mask, shown.mask).cpu().numpy()
        for query, row in zip(benchmark.queries[some], scores, strict=True):
            yield judge.answer(query, row)
        advance(len(scores))
