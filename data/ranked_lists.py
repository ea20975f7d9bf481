"""Rankings as lists of ids, as users hand them over in JSON."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.annotations import Annotations
from data.benchmarks import Query
from data.layouts import read_json
from data.orders import ListedRanking, Ranking, first_places, hidden_places, subset_members

# The head of a CIRR submission; a file with it can be scored as it is.
HEAD = ("version", "metric")


def from_lists(annotations: Annotations, found: Any, path: Path) -> Mapping[str, Ranking]:
    """Rankings from parsed JSON: query id to gallery ids, best first.

    A target that is not in its list counts as a miss, as in CIRCO's evaluator; `too_short` counts the lists that end
    before the deepest cut. A CIRR list names all members of the query's set. GeneCIS lists name positions, 0 the
    target. The head of a submission file (`version`, `metric`) is passed over. What the protocol takes out may be there
    or not.

    Raises:
        ValueError: names the query and what is wrong: a query without list, an unknown or doubled id, a missing member.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; want an object: query id to ranked gallery ids")
    lists = {key: value for key, value in found.items() if key not in HEAD or isinstance(value, list)}
    known = {query.query_id for query in annotations.queries}
    missing = [query.query_id for query in annotations.queries if query.query_id not in lists]
    unknown = [key for key in lists if key not in known]
    if missing or unknown:
        raise ValueError(
            f"{path} ranks {len(lists) - len(unknown)} of the {len(known)} queries of {annotations.name}"
            f" {annotations.split}"
            + (f"; {len(missing)} have no list, first {missing[0]!r}" if missing else "")
            + (f"; {len(unknown)} ids are unknown, first {unknown[0]!r}" if unknown else "")
        )
    return {query.query_id: _listed(annotations, query, lists[query.query_id], path) for query in annotations.queries}


def _listed(annotations: Annotations, query: Query, found: Any, path: Path) -> Ranking:
    where = f"{path}: query {query.query_id}"
    if not isinstance(found, list):
        raise ValueError(f"{where}: {type(found).__name__}; want a list of ids, best first")
    ranked = _positions(where, query, found) if annotations.name == "genecis" else _ids(annotations, where, found)
    repeated = _first_repeated(ranked)
    if repeated is not None:
        raise ValueError(f"{where}: {repeated!r} is ranked twice; a ranking names every image once")
    mode = annotations.protocol.reference
    if annotations.name == "genecis":
        hidden = {str(place) for place in hidden_places(mode, query, query.candidates, first_places(query.candidates))}
        candidates: Sequence[str] = [str(place) for place in range(len(query.candidates))]
    else:
        hidden = {query.reference_id} if mode == "mask" else set()
        candidates = annotations.candidates(query)
    _check_known(annotations, query, where, ranked, candidates)
    allowed = _as_set(tuple(candidates))
    kept = [one for one in ranked if one not in hidden and (not candidates or one in allowed)]
    _check_members(annotations, query, where, kept)
    if annotations.name == "genecis":
        # Positions are named after their image only where it stands first: the target is position 0.
        names = [query.targets[0] if place == "0" else f"#{place}" for place in kept]
        return ListedRanking(names)
    return ListedRanking(kept)


@lru_cache(maxsize=8)
def _as_set(ids: tuple[str, ...]) -> frozenset[str]:
    """Thousands of lists are checked against the same gallery."""
    return frozenset(ids)


def _positions(where: str, query: Query, found: list[Any]) -> list[str]:
    size = len(query.candidates)
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < size:
            raise ValueError(f"{where}: {one!r}; want positions 0 (the target) to {size - 1}")
    return [str(one) for one in found]


def _ids(annotations: Annotations, where: str, found: list[Any]) -> list[str]:
    if annotations.name != "circo":
        for one in found:
            if not isinstance(one, str):
                raise ValueError(f"{where}: {one!r} is no image id; want text such as {annotations.images[0]!r}")
        return list(found)
    ranked = []
    for one in found:
        # As numbers before they are compared, so that "9761" and 9761 count as the same image.
        if isinstance(one, bool) or not isinstance(one, int | str) or not str(one).strip().isdecimal():
            raise ValueError(f"{where}: {one!r} is no COCO image id; want a whole number")
        ranked.append(str(int(one)))
    return ranked


def _first_repeated(ranked: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for one in ranked:
        if one in seen:
            return one
        seen.add(one)
    return None


def _check_known(
    annotations: Annotations, query: Query, where: str, ranked: Sequence[str], candidates: Sequence[str]
) -> None:
    """Images outside the gallery are refused, apart from those a smaller gallery (val_union) leaves out."""
    if not candidates:
        return
    known = _as_set(annotations.splits.get(annotations.part(query), tuple(candidates)))
    for one in ranked:
        if one not in known:
            raise ValueError(f"{where}: {one!r} is not in its gallery of {len(known)} images")


def _check_members(annotations: Annotations, query: Query, where: str, kept: Sequence[str]) -> None:
    listed = frozenset(kept)
    members = subset_members(annotations.protocol.reference, query)
    absent = [one for one in members if one not in listed]
    if absent and absent[0] == query.reference_id:
        raise ValueError(
            f"{where}: its reference {absent[0]!r} is not ranked, but under reference=keep it competes in its set;"
            " rank it too, or score with reference=mask"
        )
    if absent:
        raise ValueError(f"{where}: member {absent[0]!r} of its set is not ranked; subset recall needs all of them")


def too_short(annotations: Annotations, rankings: Mapping[str, Ranking]) -> int:
    """How many lists end before the deepest cut although their gallery, where it is known, does not."""
    cut = max(int(metric.split("@")[1]) for metric in annotations.metrics)
    short = 0
    for query in annotations.queries:
        ranking = rankings[query.query_id]
        # The reference, which may be masked, is left out of the count.
        possible = max(len(annotations.candidates(query)) - 1, 0) or cut
        short += isinstance(ranking, ListedRanking) and len(ranking) < min(cut, possible)
    return short


def read_lists(annotations: Annotations, path: Path) -> Mapping[str, Ranking]:
    """`from_lists` of a JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}" + ("; that is a folder" if path.is_dir() else ""))
    return from_lists(annotations, read_json(path, distinct=True), path)
