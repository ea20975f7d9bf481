"""Files for the test servers of CIRR and CIRCO, checked here before anybody uploads them.

CIRR takes two files, one with 50 ids per query and one with the 3 best members of the query's set; CIRCO one file with
50 ids per query. The servers do not say what is wrong with a file, and the number of uploads is limited.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data.annotations import Annotations
from data.artifact import write_atomically
from data.layouts import BrokenAnnotations, read_json

DEPTH = 50
SUBSET_DEPTH = 3
# CIRR's page on the test split: files of at most 5 MB. CIRCO states no limit.
CIRR_BYTES = 5 * 10**6
CIRR_VERSION = "rc2"
FILES = {"cirr": ("cirr_recall.json", "cirr_recall_subset.json"), "circo": ("circo.json",)}
METRICS = ("recall", "recall_subset")
# Problems beyond this number are counted, not told.
MOST_TOLD = 10


class BadSubmission(ValueError):  # noqa: N818  (what it is, not what was done)
    """A submission file the server would refuse or score wrongly; the message lists what is wrong."""


def write_submission(folder: Path, annotations: Annotations, ranked: Mapping[str, Sequence[str]]) -> tuple[Path, ...]:
    """Write and check the files of a benchmark's server.

    Args:
        folder: made if it is not there; files of the same name are replaced.
        annotations: of `cirr` or `circo`, split test.
        ranked: query id to gallery ids, best first: at least 50, and for CIRR the five members of the query's set
            anywhere in the list. CIRR's reference may be among them; it is left out.

    Returns:
        The files, in the order of `FILES`.

    Raises:
        LookupError: for a benchmark without a server.
        BadSubmission: if the files would not pass `check_submission`; none is left behind.
    """
    contents = _contents(annotations, ranked)
    problems = [problem for content in contents for problem in _problems(annotations, content)]
    if problems:
        raise BadSubmission(_told(f"{annotations.name} {annotations.split}", problems))
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / name for name in FILES[annotations.name])
    for path, content in zip(paths, contents, strict=True):
        # One line: indented, CIRR's file would be larger than its server takes.
        write_atomically(path, partial(_write_line, content))
    for path in paths:
        check_submission(path, annotations)
    return paths


def check_submission(path: Path, annotations: Annotations) -> None:
    """Check a file as its server would want it.

    Args:
        path: a JSON file, ours or another's.
        annotations: of `cirr` or `circo` and the split it is for. Where CIRCO's gallery is unknown, image ids are
            checked to be whole numbers only.

    Raises:
        BadSubmission: lists the problems: queries missing or unknown, ids of the wrong type, unknown or doubled, lists
            too short or too long, a reference among its own answers, a look-alike from another set, the wrong head, a
            file that is too large.
    """
    if annotations.name not in FILES:
        raise LookupError(f"{annotations.name} has no test server; {' and '.join(FILES)} have one")
    try:
        content = read_json(path, distinct=True)
    except BrokenAnnotations as error:
        raise BadSubmission(str(error)) from error
    problems = _problems(annotations, content)
    size = path.stat().st_size
    if annotations.name == "cirr" and size > CIRR_BYTES:
        problems.append(f"the file has {size} bytes, the server takes {CIRR_BYTES}")
    if problems:
        raise BadSubmission(_told(str(path), problems))


def _write_line(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="ascii")


def _contents(annotations: Annotations, ranked: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    if annotations.name not in FILES:
        raise LookupError(f"{annotations.name} has no test server; {' and '.join(FILES)} have one")
    missing = [query.query_id for query in annotations.queries if query.query_id not in ranked]
    if missing:
        raise BadSubmission(f"{annotations.name}: {len(missing)} queries have no ranking, first {missing[0]!r}")
    if annotations.name == "circo":
        # Numbers, as the server's code casts them to.
        return [{one.query_id: [int(image) for image in ranked[one.query_id][:DEPTH]] for one in annotations.queries}]
    recall: dict[str, Any] = {"version": CIRR_VERSION, "metric": METRICS[0]}
    subset: dict[str, Any] = {"version": CIRR_VERSION, "metric": METRICS[1]}
    for query in annotations.queries:
        others = [image for image in ranked[query.query_id] if image != query.reference_id]
        members = frozenset(query.subset)
        recall[query.query_id] = others[:DEPTH]
        subset[query.query_id] = [image for image in others if image in members][:SUBSET_DEPTH]
    return [recall, subset]


def _problems(annotations: Annotations, content: Any) -> list[str]:
    if not isinstance(content, dict):
        return [f"the file holds a {type(content).__name__}; want an object: query id to ranked ids"]
    head: list[str] = []
    depth = DEPTH
    lists = dict(content)
    if annotations.name == "cirr":
        version, metric = lists.pop("version", None), lists.pop("metric", None)
        if version != CIRR_VERSION or metric not in METRICS:
            head.append(f"version is {version!r} and metric {metric!r}; want 'rc2', and 'recall' or 'recall_subset'")
        depth = SUBSET_DEPTH if metric == METRICS[1] else DEPTH
    known = {query.query_id for query in annotations.queries}
    missing, unknown = known - lists.keys(), lists.keys() - known
    if missing:
        head.append(f"{len(missing)} of {len(known)} queries are missing, first {min(missing, key=_natural)!r}")
    if unknown:
        head.append(f"{len(unknown)} query ids are unknown, first {min(unknown, key=_natural)!r}")
    return head + _list_problems(annotations, lists, depth)


def _list_problems(annotations: Annotations, lists: Mapping[str, Any], depth: int) -> list[str]:
    gallery = frozenset(annotations.images)
    found: list[str] = []
    for query in annotations.queries:
        ranked = lists.get(query.query_id)
        where = f"query {query.query_id}"
        if query.query_id not in lists:
            continue
        if not isinstance(ranked, list) or len(ranked) != depth:
            length = len(ranked) if isinstance(ranked, list) else type(ranked).__name__
            found.append(f"{where}: {length} ids, want a list of {depth}")
            continue
        ids = [_image_id(annotations, one) for one in ranked]
        wrong = [one for one, image in zip(ranked, ids, strict=True) if image is None]
        strangers = [image for image in ids if image is not None and gallery and image not in gallery]
        if wrong:
            found.append(f"{where}: {wrong[0]!r} is no id of an image")
        elif strangers:
            found.append(f"{where}: {strangers[0]!r} is not in the gallery")
        elif len(set(ids)) < len(ids):
            found.append(f"{where}: an image is ranked twice")
        elif annotations.name == "cirr" and query.reference_id in ids:
            found.append(f"{where}: its own reference {query.reference_id!r} is among the answers")
        elif depth == SUBSET_DEPTH and not set(ids) <= set(query.subset):
            found.append(f"{where}: {min(set(map(str, ids)) - set(query.subset))!r} is no member of its set")
    return found


def _image_id(annotations: Annotations, one: Any) -> str | None:
    if annotations.name == "cirr":
        return one if isinstance(one, str) else None
    if isinstance(one, bool) or not isinstance(one, int | str) or not str(one).isdecimal():
        return None
    return str(int(one))


def _natural(query_id: str) -> tuple[int, str]:
    return (int(query_id), "") if query_id.isdecimal() else (10**12, query_id)


def _told(where: str, problems: Sequence[str]) -> str:
    more = f"\n  and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
    return f"{where} would not pass its server:\n  " + "\n  ".join(problems[:MOST_TOLD]) + more
