"""The queries of a benchmark as tokens of one checkpoint: composed, the papers' baselines, texts alone."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.benchmarks import Benchmark
from models.baselines import Baseline, baseline_query
from models.encoders import Encoder, TextReading, TokenSet
from tasks.pictures import Batch, Pictures


class Composer:
    """Composed queries, made while the features of their references pass by in any order, each once.

    Attributes:
        references: places of the references in `Pictures.ids`, ascending.
    """

    def __init__(self, encoder: Encoder, pictures: Pictures) -> None:
        self._encoder, self._batch = encoder, pictures.batch
        self._owners, self._texts = _texts(pictures.benchmark)
        self._asked: dict[int, list[int]] = {}  # place of a reference -> its rows of `_texts`
        for row, owner in enumerate(self._owners.tolist()):
            place = pictures.place[pictures.benchmark.queries[owner].reference_id]
            self._asked.setdefault(place, []).append(row)
        self.references = sorted(self._asked)
        self._parts: list[TokenSet] = []
        self._order: list[int] = []

    @property
    def complete(self) -> bool:
        """Whether every query is composed."""
        return len(self._order) == len(self._texts)

    def see(self, batch: Batch) -> None:
        """Compose the queries of the references in a batch."""
        rows = [(at, row) for at, place in enumerate(batch.places) for row in self._asked.get(place, [])]
        for first in range(0, len(rows), self._batch):
            some = rows[first : first + self._batch]
            mine = batch.vision[[at for at, _ in some]]
            self._parts.append(self._encoder.query_tokens(mine, [self._texts[row] for _, row in some]))
            self._order.extend(row for _, row in some)

    def queries(self) -> TokenSet:
        """(Q, T, D) tokens in the order of the benchmark's queries, which must be complete."""
        return _per_query(self._parts, self._owners[self._order])


def baseline_queries(
    encoder: Encoder, pictures: Pictures, references: TokenSet, methods: Sequence[Baseline]
) -> dict[Baseline, TokenSet]:
    """Query tokens of the papers' baselines, by method.

    Args:
        encoder: reads the modifications.
        pictures: of the benchmark.
        references: (Q, T, D) image tokens of each query's reference, on any device.
        methods: which.
    """
    owners, texts = _texts(pictures.benchmark)
    parts: dict[Baseline, list[TokenSet]] = {method: [] for method in methods}
    for start in range(0, len(texts), pictures.batch):
        some = slice(start, start + pictures.batch)
        text = encoder.text_tokens(texts[some])
        tokens = references.tokens[owners[some]].to(text.tokens)
        image = TokenSet(normalize(tokens, dim=-1), references.mask[owners[some]].to(text.mask.device))
        for method in methods:
            parts[method].append(baseline_query(method, image, text))
    return {method: _per_query(parts[method], owners) for method in methods}


def text_queries(encoder: Encoder, texts: Sequence[str], batch: int, reading: TextReading = "cls") -> TokenSet:
    """(Q, 1, D): the [CLS] text feature of each text. Scored like any query, it is the maximum over a candidate's
    tokens. Other readings give (Q, T, D)."""
    parts = [encoder.text_tokens(texts[start : start + batch], reading) for start in range(0, len(texts), batch)]
    return TokenSet(torch.cat([part.tokens for part in parts]), torch.cat([part.mask for part in parts]))


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
