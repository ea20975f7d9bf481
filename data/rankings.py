"""Rankings from features or similarities, as users hand them over in an NPZ file."""

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.annotations import Annotations
from data.benchmarks import Query
from data.orders import Ranking, ScoredRanking, first_places, hidden_places

Matrix = npt.NDArray[np.float32]
Features = Mapping[str, npt.NDArray[Any]]

# Scores held at a time: 64 MB in float32.
TILE = 2**24


def read_features(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an NPZ file.

    Raises:
        ValueError: if it is no NPZ file of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}") from error
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is no .npz file of plain arrays; write it with numpy.savez ({error})") from error


def from_features(annotations: Annotations, arrays: Features) -> Mapping[str, Ranking]:
    """Rankings by cosine similarity.

    Args:
        annotations: with known galleries.
        arrays: `query` (Q, D) in annotation order and `gallery` (N, D) in split-file order, float; for FashionIQ
            `dress_query`, `dress_gallery` and so on, where a gallery under val_union may hold the whole split or the
            union alone; for GeneCIS one array of similarities per task, (queries, 1 + rivals), the target first.

    Returns:
        Rankings by query id, each made when it is asked for.

    Raises:
        ValueError: for a missing array, a wrong shape, NaN or a row of zeros.
    """
    _refuse_missing(arrays, expected_arrays(annotations))
    rankings: dict[str, Callable[[], Ranking]] = {}
    if annotations.name == "genecis":
        for part in annotations.parts:
            rankings |= _similarities(annotations, part, arrays[part])
    else:
        for part in annotations.parts:
            head = f"{part}_" if part else ""
            rankings |= _cosines(annotations, part, arrays[f"{head}query"], arrays[f"{head}gallery"])
    return Deferred(rankings)


class Deferred(Mapping[str, Ranking]):
    """Rankings that are made when asked for, so that no more than a tile of scores is held."""

    def __init__(self, makers: Mapping[str, Callable[[], Ranking]]) -> None:
        self._makers = makers

    def __getitem__(self, query_id: str) -> Ranking:
        return self._makers[query_id]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    # Mapping's own would make the ranking only to throw it away.
    def __contains__(self, query_id: object) -> bool:
        return query_id in self._makers


def expected_arrays(annotations: Annotations) -> tuple[str, ...]:
    """Names of the arrays that an NPZ file for this benchmark holds."""
    if annotations.name == "genecis":
        return annotations.parts
    if annotations.parts == ("",) or not annotations.parts:
        return ("query", "gallery", *(("gallery_ids",) if annotations.name == "circo" else ()))
    return tuple(f"{part}_{kind}" for part in annotations.parts for kind in ("query", "gallery"))


def _refuse_missing(arrays: Features, expected: Sequence[str]) -> None:
    missing = [name for name in expected if name not in arrays and name != "gallery_ids"]
    if missing:
        raise ValueError(
            f"the features hold {', '.join(sorted(arrays)) or 'no arrays'}; want {', '.join(expected)}:"
            f" missing {', '.join(missing)}"
        )


def _cosines(
    annotations: Annotations, part: str, query: npt.NDArray[Any], gallery: npt.NDArray[Any]
) -> dict[str, Callable[[], Ranking]]:
    queries = [one for one in annotations.queries if annotations.part(one) == part]
    ids = annotations.galleries[part]
    head = f"{part}_" if part else ""
    rows = _rows(annotations, part, f"{head}gallery", gallery)
    asked, images = normalised(f"{head}query", query), normalised(f"{head}gallery", gallery[rows])
    _check_shape(f"{head}query", asked, len(queries), "queries in annotation order")
    if asked.shape[1] != images.shape[1]:
        raise ValueError(
            f"{head}query has {asked.shape[1]} dimensions and {head}gallery {images.shape[1]}; want the same"
        )
    tiles = Tiles(asked, images)
    places = first_places(ids)

    def maker(row: int, one: Query) -> Callable[[], Ranking]:
        hidden = hidden_places(annotations.protocol.reference, one, ids, places)
        return lambda: ScoredRanking(one, tiles.scores(row), ids, places, hidden)

    return {one.query_id: maker(row, one) for row, one in enumerate(queries)}


def _rows(annotations: Annotations, part: str, name: str, gallery: npt.NDArray[Any]) -> npt.NDArray[np.intp] | slice:
    """Which rows of a gallery's features to use: all, or those of the union out of the whole split."""
    ids = annotations.galleries[part]
    whole = annotations.splits.get(part, ids)
    if gallery.ndim == 2 and len(gallery) == len(whole) != len(ids):
        kept = frozenset(ids)
        return np.array([row for row, one in enumerate(whole) if one in kept], dtype=np.intp)
    other = f" (or {len(whole)}, the whole split)" if len(whole) != len(ids) else ""
    _check_shape(name, gallery, len(ids), f"gallery images in split-file order{other}")
    return slice(None)


def _check_shape(name: str, found: npt.NDArray[Any], rows: int, what: str) -> None:
    if found.ndim != 2 or len(found) != rows:
        raise ValueError(f"array {name!r} has shape {found.shape}; want ({rows}, D): {what}")


def normalised(name: str, features: npt.NDArray[Any]) -> Matrix:
    """Rows in float32, of length 1.

    Raises:
        ValueError: for other than a matrix of numbers, NaN, infinities, or a row of zeros, which has no direction.
    """
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise ValueError(f"array {name!r} is {features.dtype} of shape {features.shape}; want a float matrix (rows, D)")
    rows = np.ascontiguousarray(features, dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise ValueError(f"array {name!r}: {len(broken)} rows hold NaN or infinity, first row {broken[0]}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    dead = np.flatnonzero(lengths == 0)
    if len(dead):
        raise ValueError(f"array {name!r}: {len(dead)} rows are all zeros, first row {dead[0]}; they rank nothing")
    scaled: Matrix = rows / lengths
    return scaled


class Tiles:
    """Cosines of queries and a gallery, a tile of queries at a time.

    Equal gallery rows score exactly alike: matrix products round by the place of a row, so the first row's score is
    taken for its copies (FashionIQ's galleries have up to 13 copies of a picture).
    """

    def __init__(self, queries: Matrix, gallery: Matrix) -> None:
        self._queries = queries
        self._gallery = gallery
        self._size = max(1, TILE // max(1, len(gallery)))
        self._start = -1
        self._held: Matrix = np.zeros((0, 0), dtype=np.float32)
        first: dict[bytes, int] = {}
        digests = (hashlib.blake2b(row.data, digest_size=16).digest() for row in gallery)
        twin_of = np.array([first.setdefault(one, place) for place, one in enumerate(digests)], dtype=np.intp)
        self._twins = np.flatnonzero(twin_of != np.arange(len(gallery)))
        self._firsts = twin_of[self._twins]

    def scores(self, row: int) -> Matrix:
        """(N,) float32 cosines of one query."""
        start = row - row % self._size
        if start != self._start:
            self._held = self._queries[start : start + self._size] @ self._gallery.T
            self._held[:, self._twins] = self._held[:, self._firsts]
            self._start = start
        found: Matrix = self._held[row - start]
        return found


def _similarities(
    annotations: Annotations, task: str, similarities: npt.NDArray[Any]
) -> dict[str, Callable[[], Ranking]]:
    queries = [one for one in annotations.queries if annotations.part(one) == task]
    wanted = (len(queries), len(queries[0].candidates))
    if similarities.shape != wanted or similarities.dtype.kind not in "fiu":
        raise ValueError(
            f"array {task!r} is {similarities.dtype} of shape {similarities.shape}; want float similarities of shape"
            f" {wanted}: a row per query, the target first and then its rivals in the file's order"
        )
    if similarities.dtype.kind != "f":
        similarities = similarities.astype(np.float64)

    def maker(row: int, one: Query) -> Callable[[], Ranking]:
        places = first_places(one.candidates)
        hidden = hidden_places(annotations.protocol.reference, one, one.candidates, places)
        return lambda: ScoredRanking(one, similarities[row], one.candidates, places, hidden)

    return {one.query_id: maker(row, one) for row, one in enumerate(queries)}
