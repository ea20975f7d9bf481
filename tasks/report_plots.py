"""Small charts as inline SVG: they scale, print, follow the page's light or dark colours, and need no library.

Colours come from the page's style sheet by class (`c0`, `c1`, ...); lines also differ by dashes, so that none is told
from another by colour alone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
DASHES = ("none", "7 4", "2 3", "9 3 2 3")
COLOURS = 6

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart; `colour` and `dash` are numbers of a class and of a pattern."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Band:
    """What lies between two curves over the same x, and the curve in the middle: (x, low, middle, high)."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval."""

    name: str
    value: float
    low: float
    high: float
    colour: int = 0


class Frame:
    """A rectangle with axes, and the way from values to places in it."""

    def __init__(self, xs: Iterable[float], ys: Iterable[float], left: int = LEFT, height: int = HEIGHT) -> None:
        """Fit round the given finite values, at least one of each; y starts at 0 if 0 is near."""
        self.left, self.height = left, height
        self.x_ticks = ticks(xs)
        self.y_ticks = ticks(ys)

    def x(self, value: float) -> float:
        """Horizontal place of a value, in pixels from the left."""
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return round(self.left + (value - low) / (high - low) * (WIDTH - self.left - RIGHT), 1)

    def y(self, value: float) -> float:
        """Vertical place of a value, in pixels from the top."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(self.height - BOTTOM - (value - low) / (high - low) * (self.height - BOTTOM - TOP), 1)

    def path(self, points: Iterable[Point]) -> str:
        """Points as the `d` of a path."""
        return "M" + "L".join(f"{self.x(x)} {self.y(y)}" for x, y in points)

    def x_axis(self, label: str) -> list[Markup]:
        """Vertical grid lines, their numbers and the label below."""
        bottom = self.height - BOTTOM
        parts = []
        for tick in self.x_ticks:
            at = self.x(tick)
            parts.append(Markup('<path class="grid" d="M{} {}V{}"/>').format(at, TOP, bottom))
            parts.append(_text(at, bottom + 17, number(tick), "middle"))
        parts.append(_text((self.left + WIDTH - RIGHT) / 2, self.height - 8, label, "middle", "label"))
        return parts

    def y_axis(self, label: str) -> list[Markup]:
        """Horizontal grid lines, their numbers and the label at the left."""
        parts = []
        for tick in self.y_ticks:
            at = self.y(tick)
            parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(self.left, at, WIDTH - RIGHT))
            parts.append(_text(self.left - 7, at + 4, number(tick), "end"))
        middle = (TOP + self.height - BOTTOM) / 2
        turned = Markup('<text class="label" transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>')
        parts.append(turned.format(middle, label))
        return parts


def lines(title: str, summary: str, x: str, y: str, series: Sequence[Line]) -> Markup:
    """Lines over a common axis, with a legend.

    Args:
        title: caption of the figure.
        summary: what a reader who does not see the chart should know.
        x, y: labels of the axes.
        series: lines with at least one point in all; a single point is drawn as a dot.
    """
    drawn = [line for line in series if line.points]
    frame = Frame([at for line in drawn for at, _ in line.points], [at for line in drawn for _, at in line.points])
    parts = [*frame.x_axis(x), *frame.y_axis(y)]
    for line in drawn:
        style = Markup('class="line c{}" stroke-dasharray="{}"').format(line.colour % COLOURS, DASHES[line.dash])
        parts.append(Markup('<path {} d="{}"/>').format(style, frame.path(line.points)))
        if len(line.points) <= 30:
            parts += [_dot(frame.x(a), frame.y(b), line.colour) for a, b in line.points]
    return _figure(title, summary, parts, legend=[(line.name, line.colour, line.dash) for line in drawn])


def scatter(title: str, summary: str, x: str, y: str, points: Sequence[Point], name: str, band: Band) -> Markup:
    """Points over a band; the arguments as of `lines`, `name` is that of the points. The band may be empty."""
    frame = Frame(
        [*(a for a, _ in points), *(p[0] for p in band.points)],
        [*(b for _, b in points), *(value for p in band.points for value in p[1:])],
    )
    parts = [*frame.x_axis(x), *frame.y_axis(y)]
    legend = [(name, 1, -1)]
    if band.points:
        outline = [(p[0], p[3]) for p in band.points] + [(p[0], p[1]) for p in reversed(band.points)]
        parts.append(Markup('<path class="band c0" d="{}Z"/>').format(frame.path(outline)))
        middle = frame.path((p[0], p[2]) for p in band.points)
        parts.append(Markup('<path class="line c0" d="{}"/>').format(middle))
        legend.insert(0, (band.name, 0, 0))
    parts += [_dot(frame.x(a), frame.y(b), 1, 2.2) for a, b in points]
    return _figure(title, summary, parts, legend)


def intervals(title: str, summary: str, x: str, rows: Sequence[Interval], digits: int = 1) -> Markup:
    """One row per value: a dot and a line over its interval, from 0; values are written with so many digits."""
    step = 34
    height = TOP + BOTTOM + step * len(rows)
    frame = Frame([0.0, *(row.high for row in rows)], [0.0, 1.0], left=112, height=height)
    parts = frame.x_axis(x)
    for place, row in enumerate(rows):
        at = TOP + step * (place + 0.5)
        ends = Markup('<path class="line thick c{}" d="M{} {}H{}"/>')
        parts.append(ends.format(row.colour % COLOURS, frame.x(row.low), at, frame.x(row.high)))
        parts.append(_dot(frame.x(row.value), at, row.colour, 5))
        parts.append(_text(frame.left - 10, at + 4, row.name, "end", "label"))
        parts.append(_text(frame.x(row.value), at - 9, f"{row.value:.{digits}f}", "middle"))
    return _figure(title, summary, parts, [], height)


def shares(title: str, summary: str, x: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """One bar per row, from 0 to its share in percent, over a faint one to 100; behind it what it stands for.

    Args:
        title, summary, x: as of `lines`.
        rows: name, percent, words.
    """
    step = 30
    height = TOP + BOTTOM + step * len(rows)
    frame = Frame([0.0, 100.0], [0.0, 1.0], left=112, height=height)
    parts = frame.x_axis(x)
    for place, (name, percent, words) in enumerate(rows):
        top = TOP + step * place + 7
        for kind, value in (("rest", 100.0), ("c0", percent)):
            drawn = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="14"/>')
            parts.append(drawn.format(kind, frame.left, top, round(frame.x(value) - frame.left, 1)))
        parts.append(_text(frame.left - 10, top + 12, name, "end", "label"))
        parts.append(_text(frame.left + 6, top + 11, words, "start", "tick inside"))
    return _figure(title, summary, parts, [], height)


def bars(title: str, summary: str, x: str, y: str, counted: Sequence[tuple[int, int]]) -> Markup:
    """A bar for each whole number that was counted at least once; arguments as of `lines`.

    Args:
        counted: (number, how often), numbers rising; at least one.
    """
    # Ticks at fractions would make no sense, and over less than five units there would be some.
    frame = Frame([0.0, max(5.0, counted[-1][0] + 1.0)], [0.0, *(float(count) for _, count in counted)])
    parts = [*frame.x_axis(x), *frame.y_axis(y)]
    width = max(1.0, 0.8 * (frame.x(1) - frame.x(0)))
    for times, count in counted:
        top, height = frame.y(count), frame.y(0) - frame.y(count)
        drawn = Markup('<rect class="c0" x="{}" y="{}" width="{}" height="{}"/>')
        parts.append(drawn.format(round(frame.x(times) - width / 2, 1), top, round(width, 1), round(height, 1)))
    return _figure(title, summary, parts, [])


def histogram(title: str, summary: str, x: str, y: str, counted: Sequence[tuple[float, int]], width: float) -> Markup:
    """A bar over each interval that begins at a value and is `width` long; arguments as of `bars`."""
    frame = Frame([counted[0][0], counted[-1][0] + width], [0.0, *(float(count) for _, count in counted)])
    parts = [*frame.x_axis(x), *frame.y_axis(y)]
    for start, count in counted:
        left, top = frame.x(start), frame.y(count)
        wide, high = max(1.0, frame.x(start + width) - left - 1), frame.y(0) - top
        drawn = Markup('<rect class="c0" x="{}" y="{}" width="{}" height="{}"/>')
        parts.append(drawn.format(left, top, round(wide, 1), round(high, 1)))
    return _figure(title, summary, parts, [])


def thinned(points: Sequence[Point], most: int = 200) -> list[Point]:
    """At most `most` points: means of equally many neighbours, where there are more."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def ticks(values: Iterable[float], about: int = 5) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that enclose the values; 0 is one if it is near.

    Raises:
        ValueError: if there is no value or one is not finite.
    """
    known = list(values)
    if not known or not all(math.isfinite(value) for value in known):
        raise ValueError(f"a chart needs finite values, got {len(known)} of which some are not")
    low, high = min(known), max(known)
    if 0 < low < 0.4 * high:
        low = 0.0
    if low == high:
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's number as one writes it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 10):.6g}"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _dot(x: float, y: float, colour: int, radius: float = 3) -> Markup:
    return Markup('<circle class="c{}" cx="{}" cy="{}" r="{}"/>').format(colour % COLOURS, x, y, radius)


def _key(colour: int, dash: int) -> Markup:
    """What a legend shows: a piece of line, or for dash -1 a dot."""
    if dash < 0:
        return _dot(15, 5, colour)
    drawn = Markup('<path class="line c{}" stroke-dasharray="{}" d="M1 5H29"/>')
    return drawn.format(colour % COLOURS, DASHES[dash])


def _figure(
    title: str, summary: str, parts: Iterable[Markup], legend: Sequence[tuple[str, int, int]], height: int = HEIGHT
) -> Markup:
    keys = Markup("").join(
        Markup('<li><svg width="30" height="10" aria-hidden="true">{}</svg>{}</li>').format(_key(colour, dash), name)
        for name, colour, dash in legend
    )
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        "{}</figure>"
    ).format(
        title,
        WIDTH,
        height,
        f"{title}. {summary}",
        Markup("").join(parts),
        Markup('<ul class="legend">{}</ul>').format(keys) if keys else escape(""),
    )
