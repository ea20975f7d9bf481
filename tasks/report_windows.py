"""What the report says of ranking and windows: how sure the ranks are, what windows differ in, who is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from pydantic import JsonValue, TypeAdapter

from data.artifact import Artifact
from tasks.report_cards import Thumbnail, thumbnails
from tasks.report_parts import similarity_chart
from tasks.report_plots import Interval, bars, intervals
from tasks.windows import SHOWN, WINDOWS

_TIMES = TypeAdapter(list[tuple[int, int]])


@dataclass(frozen=True)
class Strip:
    """A reference and some of its candidates, nearest first: (label, picture, score)."""

    title: str
    reference: Thumbnail
    pictures: list[tuple[str, Thumbnail, float]]


@dataclass(frozen=True)
class WindowSection:
    """The section of the page.

    Attributes:
        sentences: what was ranked, and how sure it is.
        charts: similarity by rank, and how often images are drawn.
        rows: of `tasks.windows.WINDOWS`.
        near_duplicate: the threshold behind their shares.
        strips: pictures; for each reference one by rank and one by window.
    """

    sentences: list[str]
    charts: list[Markup]
    rows: list[Mapping[str, Any]]
    near_duplicate: float | None
    strips: list[Strip]


def window_section(
    images: Artifact,
    ranking: Artifact | None,
    pairs: Artifact | None,
    windows: Artifact | None,
    count: int,
    side: int,
    seed: int,
) -> WindowSection | None:
    """The section of a run that has a ranking, pairs or windows; None for one that has none of them.

    Args:
        images: where pictures come from.
        ranking, pairs, windows: the artifacts, as far as the recipe makes them.
        count: pairs in the chart of similarity by rank.
        side: longest side of a picture in pixels.
        seed: of the draw of these pairs.
    """
    charts: list[Markup | None] = []
    if pairs is not None:
        charts = [similarity_chart(pairs, ranking, count, seed), drawn_chart(pairs.counts.detail)]
    sentences = [] if ranking is None else [certainty(ranking.counts.detail)]
    rows: list[Mapping[str, Any]] = []
    strips: list[Strip] = []
    threshold = None
    if windows is not None:
        rows = windows.read(WINDOWS, "windows.parquet").to_pylist()
        charts.append(sweep_chart(rows))
        threshold = float(windows.manifest["config"]["near_duplicate"])
        strips = _strips(windows.read(SHOWN, "shown.parquet").to_pylist(), images, side)
    drawn = [chart for chart in charts if chart is not None]
    found = WindowSection([sentence for sentence in sentences if sentence], drawn, rows, threshold, strips)
    return found if found.sentences or drawn or rows or strips else None


def certainty(detail: Mapping[str, JsonValue]) -> str:
    """How the ranks came about, in a sentence; empty for a ranking that does not say."""
    audited = detail.get("audited")
    if not audited:
        return "Every rank is exact." if detail.get("mode") == "exact" else ""
    shares = [detail.get(name) for name in ("agreement", "agreement_at_least", "confidence", "asked")]
    known = [share for share in shares if isinstance(share, int | float)]
    if len(known) < len(shares):
        return f"{audited} references were audited; the figures of rank say with what result."
    found, least, confidence, asked = known
    ranked = "exactly, because candidates did not suffice" if detail.get("mode") == "exact" else "among candidates"
    return (
        f"Ranked {ranked}: of {audited:,} audited references {found:.1%} have exactly the ranking of all images, so"
        f" at least {least:.2%} of all references do ({confidence:.0%} confidence; {asked:.2%} was asked for)."
    )


def sweep_chart(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """How similar the candidates of each window are to their references: mean, and the middle 90 %."""
    known = [
        Interval(row["window"], row["score_mean"], row["score_5"], row["score_95"])
        for row in rows
        if row["score_mean"] is not None
    ]
    if not known:
        return None
    told = "; ".join(f"{row.name} {row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in known)
    return intervals("Similarity by window", f"{told}.", "similarity: mean, 5 % to 95 %", known, digits=3)


def drawn_chart(detail: Mapping[str, JsonValue]) -> Markup | None:
    """How many images are drawn as a target once, twice, ...; from the figures of sample."""
    targets = detail.get("targets")
    times = targets.get("drawn_times") if isinstance(targets, dict) else None
    if not times:
        return None
    counted = _TIMES.validate_python(times)
    most, images = counted[-1][0], sum(count for _, count in counted)
    told = f"{images:,} images are targets, the most frequent one {most:,} times."
    return bars("How often an image is drawn as a target", told, "times drawn", "images", counted)


def _strips(rows: Sequence[Mapping[str, Any]], images: Artifact, side: int) -> list[Strip]:
    pictures = thumbnails(images, {row[name] for row in rows for name in ("reference_id", "target_id")}, side)
    found = []
    for reference in dict.fromkeys(row["reference_id"] for row in rows):
        mine = [row for row in rows if row["reference_id"] == reference]
        for title, some in (
            ("Some ranks", [row for row in mine if row["window"] is None]),
            ("What each window draws", [row for row in mine if row["window"] is not None]),
        ):
            if some:
                shown = [(_label(row), pictures[row["target_id"]], float(row["score"])) for row in some]
                found.append(Strip(title, pictures[reference], shown))
    return found


def _label(row: Mapping[str, Any]) -> str:
    rank = f"rank {row['rank']:,}"
    return rank if row["window"] is None else f"{row['window']}: {rank}"
