"""Ranking by candidates, with the audit that says how often it is the exact ranking."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, PositiveInt, model_validator

from data.artifact import write_atomically, write_json, write_table
from data.config import StageConfig
from data.metrics import binomial_lower
from data.progress import progress
from data.schemas import RANKING
from tasks.rank_exact import Direction, Rows, ranking_table
from tasks.rank_mode import Index, duration
from tasks.runs import say

if TYPE_CHECKING:  # and within functions: they import torch, which takes seconds that a cached run need not spend
    import torch

    from models.candidates import Finder, Prepared
    from models.ranking import TokenSets

SHARD = 4096
"""References of one part."""
BATCH = 32
"""References whose candidates are scored together."""
TOLD = "audit.json"
"""File of the audit's outcome."""

Share = Annotated[float, Field(gt=0, lt=1)]


class CandidateConfig(StageConfig):
    """Ranking by candidates: where they come from, and how sure it has to be that the ranking is the exact one."""

    count: PositiveInt = Field(
        1000, description="candidates from each source to begin with; doubled until the audit is passed"
    )
    sources: Literal["union", "pooled", "centroids"] = Field(
        "union", description="pooled: one vector per image; centroids: which of some thousand each token is nearest to"
    )
    index: Literal["auto", "flat", "ivf", "pq"] = Field(
        "auto", description="FAISS index of the pooled vectors; auto: flat up to a million images"
    )
    dim: PositiveInt = Field(256, description="dimensions of a pooled vector")
    centroids: Annotated[int, Field(ge=1, le=65_535)] = 4096
    audit: PositiveInt = Field(300, description="references, drawn at random, that are ranked exactly to compare with")
    agreement: Share = Field(0.99, description="share of references with exactly the exact ranking that is asked for")
    confidence: Share = Field(0.95, description="of the lower bound on that share")
    seed: int = 0

    @model_validator(mode="after")
    def _can_be_shown(self) -> "CandidateConfig":
        needed = math.ceil(math.log(1 - self.confidence) / math.log(self.agreement) - 1e-9)
        if self.audit < needed:
            raise ValueError(
                f"{self.audit} audited references cannot show an agreement of {self.agreement} with confidence"
                f" {self.confidence}, even if all agree; set candidates.audit to at least {needed}"
            )
        return self


class Audit(BaseModel):
    """What the audit found; `agreement` is the share of audited references whose whole ranking is the exact one."""

    mode: Literal["exact", "candidates"]
    index: Index | None = None
    count: int = 0
    raised_from: list[int] = []
    found_per_reference: float = 0.0
    audited: int = 0
    agreeing: int = 0
    agreement: float = 1.0
    agreement_at_least: float = 1.0
    asked: float = 0.99
    confidence: float = 0.95
    seconds_per_reference: float = 0.0


@dataclass(frozen=True)
class Job:
    """What to rank, for whom, and where its parts are filed."""

    sets: "TokenSets"
    rows: Rows
    depth: int
    direction: Direction
    dtype: "torch.dtype"
    folder: Path


def by_candidates(job: Job, config: CandidateConfig, index: Index, gpus: bool) -> list[Path] | None:
    """Rank some images by candidates; the files of the parts, or None if only exact ranking will do.

    What takes long is filed in the job's folder and taken from there by a run that continues: the vectors, the codes,
    the exact rankings of the audit, its outcome, and each part.
    """
    told = job.folder / TOLD
    counts = _counts(config.count, len(job.sets))
    if not counts:
        write_json(told, Audit(mode="exact", asked=config.agreement, confidence=config.confidence).model_dump())
        say(f"rank: {config.count:,} candidates from each source are too many of {len(job.sets):,} images to save work")
        return None
    prepared = _prepared(job)
    finder = _finder(job, config, index)
    if not told.exists():
        audit = _audit(job, config, index, counts, finder, prepared, gpus)
        write_json(told, audit.model_dump(mode="json"))
    audit = Audit.model_validate_json(told.read_text(encoding="utf-8"))
    if audit.mode == "exact":
        say(f"rank: the audit asks for more than {audit.count:,} candidates per source; that saves no work")
        return None
    say(
        f"rank: {audit.agreeing} of {audit.audited} audited references have exactly the exact ranking with"
        f" {audit.count:,} candidates per source, so at least {audit.agreement_at_least:.2%} of all (confidence"
        f" {audit.confidence:.0%}); about {duration(audit.seconds_per_reference * len(job.rows))} at most"
    )
    return _parts(job, audit.count, _with_gpus(finder, audit.count, gpus), prepared)


def _counts(first: int, images: int) -> list[int]:
    """Candidates per source to try, doubling; beyond a quarter of the images two sources save nothing."""
    return [first << step for step in range(64) if first << step <= images // 4]


def _prepared(job: Job) -> "Prepared":
    """The tokens as the first pass reads them."""
    import torch

    from models.candidates import Prepared, prepare, stored_type

    kind = stored_type(job.dtype)
    with progress(len(job.sets), "images read") as advance:
        losses = job.folder / "losses.npy"
        stored = _array(
            job.folder / f"tokens-{str(kind).removeprefix('torch.')}.npy",
            lambda path: _save(losses, prepare(job.sets, kind, path, advance).numpy()),
        )
    mask = None if job.sets.mask is None else torch.from_numpy(job.sets.mask)
    loss = torch.from_numpy(np.load(losses))
    return Prepared(torch.from_numpy(stored).view(kind), loss, mask, job.dtype)


def _finder(job: Job, config: CandidateConfig, index: Index) -> "Finder":
    """Both sources of candidates, from files where they are finished."""
    import torch

    from models.candidates import Finder
    from models.codebook import encode, learn
    from models.index import build, pooled, projection

    sets, folder = job.sets, job.folder
    with progress(len(sets), "images pooled") as advance:
        vectors = _array(
            folder / "vectors.npy", lambda path: pooled(sets, projection(sets, config.dim, config.seed), path, advance)
        )
    built = None if config.sources == "centroids" else build(vectors, index, config.seed)
    # One token an image, kept whole: the inner product is the similarity itself, which centroids could only blur.
    whole = sets.tokens.shape[1] == 1 and sets.tokens.shape[2] <= config.dim
    if config.sources == "pooled" or (config.sources == "union" and whole):
        return Finder(vectors, built, None, None)
    means = _array(
        folder / "centroids.npy", lambda path: _save(path, learn(sets, config.centroids, config.seed).numpy())
    )
    centroids = torch.from_numpy(means)
    with progress(len(sets), "images encoded") as advance:
        codes = _array(folder / "codes.npy", lambda path: encode(sets, centroids, path, advance))
    return Finder(vectors, built, centroids, codes)


def _audit(
    job: Job,
    config: CandidateConfig,
    index: Index,
    counts: list[int],
    finder: "Finder",
    prepared: "Prepared",
    gpus: bool,
) -> Audit:
    """Rank some references exactly, and raise the number of candidates until enough of them come out the same.

    Deciding by the same references again and again does not weaken the bound. More candidates only ever add to a
    list, so a reference that agrees once agrees from there on. Say that the true share is too small up to some count:
    to stop too early, the sample would have to pass at that count too, which it does with the stated probability.
    """
    random = np.random.default_rng([config.seed, 1])
    some = np.sort(random.choice(job.rows, min(config.audit, len(job.rows)), replace=False))
    exact = _array(job.folder / "exact.npy", lambda path: _save(path, _exactly(job, some)))
    raised: list[int] = []
    for count in counts:
        agreeing, found, seconds = _agreeing(job, some, exact, count, _with_gpus(finder, count, gpus), prepared)
        everybody = len(some) == len(job.rows)
        least = agreeing / len(some) if everybody else binomial_lower(agreeing, len(some), config.confidence)
        audit = Audit(
            mode="candidates" if least >= config.agreement else "exact",
            index=index,
            count=count,
            raised_from=raised,
            found_per_reference=found,
            audited=len(some),
            agreeing=agreeing,
            agreement=agreeing / len(some),
            agreement_at_least=least,
            asked=config.agreement,
            confidence=config.confidence,
            seconds_per_reference=seconds,
        )
        if audit.mode == "candidates":
            return audit
        say(
            f"rank: with {count:,} candidates per source {agreeing} of {len(some)} audited references have the exact"
            f" ranking, so only {least:.2%} of all for sure; {config.agreement:.2%} is asked"
        )
        raised.append(count)
    return audit


def _exactly(job: Job, rows: Rows) -> Rows:
    from models.ranking import top_k

    return top_k(job.sets.subset(rows), job.sets, job.depth, job.direction, rows, job.dtype).indices


def _agreeing(
    job: Job, some: Rows, exact: Rows, count: int, finder: "Finder", prepared: "Prepared"
) -> tuple[int, float, float]:
    """How many references have their exact ranking, how many candidates each had, and its seconds.

    Each is ranked by itself: in a batch it might gain by what its neighbours found.
    """
    from models.candidates import candidates, rerank

    agreeing, found, started = 0, 0, time.perf_counter()
    with progress(len(some), "references audited") as advance:
        for place, row in enumerate(some):
            one = np.array([row])
            lists = candidates(finder, job.sets, one, count, job.direction)
            ranked = rerank(prepared, job.sets, one, lists, job.depth, job.direction)
            agreeing += np.array_equal(ranked.indices[0], exact[place])
            found += len(lists[0])
            advance(1)
    return agreeing, found / len(some), (time.perf_counter() - started) / len(some)


def _parts(job: Job, count: int, finder: "Finder", prepared: "Prepared") -> list[Path]:
    """Rank shard by shard; within one, images that are alike go together, because they want the same candidates."""
    from models.candidates import alike, candidates, rerank
    from models.ranking import Ranked

    starts = range(0, len(job.rows), SHARD)
    files = [job.folder / f"candidates-{start:09d}.parquet" for start in starts]
    done = sum(len(job.rows[at : at + SHARD]) for at, file in zip(starts, files, strict=True) if file.exists())
    with progress(len(job.rows), "references", done=done) as advance:
        for start, file in zip(starts, files, strict=True):
            if file.exists():
                continue
            shard = job.rows[start : start + SHARD]
            ranked = Ranked(
                np.full((len(shard), job.depth), -1, dtype=np.int64),
                np.full((len(shard), job.depth), -np.inf, dtype=np.float32),
            )
            order = alike(finder.vectors[shard])
            for at in range(0, len(shard), BATCH):
                places = order[at : at + BATCH]
                lists = candidates(finder, job.sets, shard[places], count, job.direction)
                part = rerank(prepared, job.sets, shard[places], lists, job.depth, job.direction)
                width = part.indices.shape[1]
                ranked.indices[places, :width], ranked.scores[places, :width] = part
                advance(len(places))
            write_table(file, ranking_table(job.sets.ids, shard, ranked), RANKING)
    return files


def _with_gpus(finder: "Finder", count: int, gpus: bool) -> "Finder":
    """The finder with its index on the GPUs, if it may be there and finds as many."""
    from models.index import on_gpus

    return finder if finder.nearest is None or not gpus else finder._replace(nearest=on_gpus(finder.nearest, count + 1))


def _array(path: Path, make: Callable[[Path], object]) -> npt.NDArray[Any]:
    """The array of a .npy file, made first if it is not there; memory-mapped, and what is changed stays in memory."""
    if not path.exists():
        write_atomically(path, lambda temporary: _ignored(make(temporary)))
    array: npt.NDArray[Any] = np.load(path, mmap_mode="c")
    return array


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, array)  # type: ignore[no-untyped-call]


def _ignored(result: object) -> None:
    """Only the file counts."""
