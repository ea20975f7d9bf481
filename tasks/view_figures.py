"""Figures of a table of triplets: kinds of edit, lengths, words, ranks, scores, how often targets are used."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.report_plots import bars, histogram
from tasks.view_table import TripletTable

KINDS = ("edit_type", "style", "view", "recipe", "provenance.model")
WORDS = 30
LONGEST = 60
"""Words of a modification; longer ones share the last bar."""
_BINS = 24


@dataclass(frozen=True)
class Figures:
    """What is told of a table.

    Attributes:
        facts: names and numbers.
        kinds: by column its values and how often each is there; columns without a value are left out.
        words: of the modifications, the most frequent first.
        targets: the images that are a target most often.
        charts: the distributions.
    """

    facts: list[tuple[str, str]]
    kinds: dict[str, list[tuple[str, int]]]
    words: list[tuple[str, int]]
    targets: list[tuple[str, int]]
    charts: list[Markup]


def figures(table: TripletTable) -> Figures:
    """Look through a whole table; about two seconds for a million triplets."""
    used = "SELECT target_id, count(*) AS times FROM {t} t WHERE target_id IS NOT NULL GROUP BY 1"
    targets = table.ask(f"{used} ORDER BY 2 DESC, 1 LIMIT 12")
    times = table.ask(f"SELECT times, count(*) AS n FROM ({used}) GROUP BY 1 ORDER BY 1")
    totals = table.ask(
        "SELECT count(DISTINCT reference_id) AS r, count(DISTINCT modification) AS m,"
        " count(*) FILTER (target_text IS NOT NULL) AS t, avg(length(modification)) AS c FROM {t} t"
    )[0]
    facts = [
        ("triplets", f"{table.rows:,}"),
        ("references", f"{totals['r']:,}"),
        ("target images", f"{sum(row['n'] for row in times):,}"),
        ("with a target text", f"{totals['t']:,}"),
        ("different modifications", f"{totals['m']:,}"),
        ("characters of a modification", "none" if totals["c"] is None else f"{totals['c']:.1f} on average"),
    ]
    kinds = {name: table.common(name, 20) for name in KINDS}
    return Figures(
        facts,
        {name: counted for name, counted in kinds.items() if counted},
        _words(table),
        [(row["target_id"], row["times"]) for row in targets],
        [chart for chart in (_lengths(table), _ranks(table), _scores(table), _uses(times)) if chart is not None],
    )


def _words(table: TripletTable) -> list[tuple[str, int]]:
    """Letters and digits of any script between other signs, in lower case."""
    parts = "SELECT unnest(regexp_split_to_array(lower(modification), '[^\\pL\\pN]+')) AS word FROM {t} t"
    rows = table.ask(
        f"SELECT word, count(*) AS n FROM ({parts}) WHERE word <> '' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {WORDS}"
    )
    return [(row["word"], row["n"]) for row in rows]


def _lengths(table: TripletTable) -> Markup | None:
    length = f"least(len(regexp_split_to_array(trim(modification), '\\s+')), {LONGEST})"
    rows = table.ask(f"SELECT {length} AS words, count(*) AS n FROM {{t}} t GROUP BY 1 ORDER BY 1")
    if not rows:
        return None
    counted = [(int(row["words"]), int(row["n"])) for row in rows]
    middle = _median(counted)
    told = f"Between {counted[0][0]} and {counted[-1][0]} words, half of them at most {middle}."
    return bars("Words of a modification", told, f"words ({LONGEST}: or more)", "triplets", counted)


def _ranks(table: TripletTable) -> Markup | None:
    rows = table.ask("SELECT rank, count(*) AS n FROM {t} t WHERE rank IS NOT NULL GROUP BY 1 ORDER BY 1")
    if not rows:
        return None
    counted = [(float(row["rank"]), int(row["n"])) for row in rows]
    width = max(1.0, (counted[-1][0] - counted[0][0]) // 100)
    told = f"Targets have ranks {counted[0][0]:.0f} to {counted[-1][0]:.0f}."
    return histogram("Rank of the target", told, "rank", "triplets", _together(counted, width), width)


def _scores(table: TripletTable) -> Markup | None:
    ends = table.ask("SELECT min(score) AS low, max(score) AS high FROM {t} t WHERE isfinite(score)")[0]
    if ends["low"] is None:
        return None
    low, high = float(ends["low"]), float(ends["high"])
    width = (high - low) / _BINS or 0.01
    rows = table.ask(
        f"SELECT least(floor((score - ?) / ?), {_BINS - 1}) AS bin, count(*) AS n FROM {{t}} t WHERE isfinite(score)"
        " GROUP BY 1 ORDER BY 1",
        [low, width],
    )
    counted = [(low + width * float(row["bin"]), int(row["n"])) for row in rows]
    told = f"Similarities of {low:.3f} to {high:.3f}."
    return histogram("Similarity of reference and target", told, "similarity", "triplets", counted, width)


def _uses(times: Sequence[dict[str, int]]) -> Markup | None:
    if not times:
        return None
    counted = [(row["times"], row["n"]) for row in times]
    told = f"{sum(count for _, count in counted):,} images are targets, the most frequent one {counted[-1][0]:,} times."
    return bars("How often an image is a target", told, "times", "images", counted)


def _together(counted: Sequence[tuple[float, int]], width: float) -> list[tuple[float, int]]:
    """Counts of neighbouring values added up over intervals."""
    found: dict[float, int] = {}
    for value, count in counted:
        start = counted[0][0] + (value - counted[0][0]) // width * width
        found[start] = found.get(start, 0) + count
    return sorted(found.items())


def _median(counted: Sequence[tuple[int, int]]) -> int:
    left = sum(count for _, count in counted) / 2
    for value, count in counted:
        left -= count
        if left <= 0:
            return value
    return counted[-1][0]
