"""Modifications with words for which neither caption gives a reason: invented colours, places, things."""

from collections.abc import Iterator

from pydantic import Field

from tasks.filters import Filter, Measured, Row, World
from tasks.filters._words import telling


class Config(Filter):
    """The value is the share of the modification's telling words that occur in neither caption, in [0, 1].

    Off by default: a caption of a photograph leaves much unsaid. For English texts.
    """

    on: bool = False
    threshold: float = Field(0.5, ge=0, le=1, description="largest share of words that are in neither caption")

    def measure(self, rows: Iterator[Row], world: World) -> Iterator[Measured]:
        for row in rows:
            captions = [row[name] for name in ("reference_caption", "target_caption", "target_text") if row[name]]
            if not captions:
                yield Measured(None, "no_caption")
                continue
            said = set(telling(row["modification"]))
            invented = sorted(said - {word for caption in captions for word in telling(caption)})
            yield Measured(len(invented) / max(1, len(said)), f"{row['modification']!r} invents {', '.join(invented)}")
