"""Report: a whole run on one page that opens anywhere, without a network and without a script."""

from pathlib import Path
from typing import Annotated

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from pydantic import Field, PositiveInt

from data.artifact import Artifact, Counts, read_table, write_atomically
from data.config import StageConfig
from data.schemas import SCORES, TESTS
from tasks.report_cards import Card, cards, rejections
from tasks.report_filters import filtered
from tasks.report_generation import generation
from tasks.report_parts import (
    METHODS,
    headlines,
    interval_chart,
    score_tables,
    stage_row,
    training_charts,
    yield_chart,
)
from tasks.report_windows import window_section
from tasks.stage import stage

HERE = Path(__file__).parent


class ReportConfig(StageConfig):
    """How much the page shows. 60 triplets of photographs make about one megabyte."""

    triplets: Annotated[int, Field(ge=0, le=200, description="triplets shown, drawn at random")] = 60
    examples: PositiveInt = Field(5, description="rejected rows shown per reason")
    pairs: PositiveInt = Field(400, description="pairs drawn in the chart of similarity by rank")
    thumbnail: Annotated[int, Field(ge=16, le=256, description="longest side of a picture, in pixels")] = 128
    seed: int = Field(0, description="of both draws")
    gpu_hour_price: Annotated[float, Field(gt=0)] | None = Field(
        None, description="price of one GPU hour, for what the texts cost; none: nothing is said of money"
    )


@stage(version=6)
def report(
    out: Path,
    config: ReportConfig,
    images: Artifact,
    ranking: Artifact | None,
    pairs: Artifact | None,
    triplets: Artifact,
    trained: Artifact | None,
    scores: Artifact | None,
    *,
    tokens: Artifact | None = None,
    windows: Artifact | None = None,
    united: Artifact | None = None,
    kept: Artifact | None = None,
    texts: Artifact | None = None,
) -> Counts:
    """Write report.html: scores beside the baselines, stages, curves, windows, a sample of triplets, rejected rows.

    `kept` are those of the triplets that the filters left: with it the sample is drawn from these, and a section tells
    what was dropped. `texts` are those of the benchmarks' queries. A recipe without an optional stage leaves it out. An
    image that cannot be shown any more becomes a box that says why. Rows are triplets: all are counted as kept,
    `detail` tells how many are shown.
    """
    made = (images, tokens, ranking, pairs, windows, united, triplets, kept, trained, texts, scores)
    stages = [one for one in made if one is not None]
    total, shown = cards(kept or triplets, images, config.triplets, config.thumbnail, config.seed)
    measured = [] if scores is None else read_table(scores.file("scores.parquet"), SCORES).to_pylist()
    tables = score_tables(measured)
    section = window_section(images, ranking, pairs, windows, config.pairs, config.thumbnail, config.seed)
    page = template("report.html.j2").render(
        recipe=shown[0].row["recipe"] if shown else triplets.stage,
        facts=_facts(stages, tokens, shown),
        headlines=headlines(measured),
        score_charts=[interval_chart(table) for table in tables if not table.tags],
        score_tables=tables,
        tests=_tests(scores),
        stages=[stage_row(one) for one in stages],
        yields=yield_chart(stages),
        generation=generation(triplets, config.gpu_hour_price),
        charts=_charts(trained),
        windows=section,
        filters=[] if kept is None else filtered(kept, images, config.examples, config.thumbnail),
        cards=shown,
        total=total,
        seed=config.seed,
        rejections=[rejection for one in stages if one is not kept for rejection in rejections(one, config.examples)],
    )
    write_atomically(out / "report.html", lambda path: path.write_text(page, encoding="utf-8"))
    pictures = [one for card in shown for one in (card.reference, card.target) if one is not None]
    return Counts(
        read=total,
        kept=total,
        written=1,
        detail={"shown": len(shown), "pictures_missing": sum(not one.uri for one in pictures), "bytes": len(page)},
    )


def template(name: str) -> Template:
    """A page of this folder; what it is filled with is text unless it says otherwise."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(name)


def _tests(scores: Artifact | None) -> list[tuple[str, ...]]:
    """Cells of the table of paired tests: where, what, against what, the difference in points, p."""
    if scores is None or not (scores.path / "tests.parquet").is_file():
        return []
    return [
        (
            f"{row['benchmark']} {row['metric']}",
            METHODS.get(row["method"], row["method"]),
            METHODS.get(row["other"], row["other"]),
            f"{row['difference']:+.1f}",
            "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}",
        )
        for row in scores.read(TESTS, "tests.parquet").to_pylist()
    ]


def _facts(stages: list[Artifact], tokens: Artifact | None, shown: list[Card]) -> list[tuple[str, str]]:
    """What the head of the page says about the run."""
    last = max((one.manifest for one in stages), key=lambda manifest: str(manifest["created"]))
    facts = [("made (UTC)", str(last["created"]).replace("T", " ").removesuffix("+00:00"))]
    facts.append(("code", str(last["cirque"]["commit"] or "not under version control")))
    facts.append(("images", f"{stages[0].counts.written:,}"))
    if tokens is not None:
        facts.append(("encoder", str(tokens.manifest["config"]["checkpoint"])))
    writers = sorted({str(card.row["provenance"]["model"]) for card in shown})
    return [*facts, ("texts by", ", ".join(writers) or "nobody")]


def _charts(trained: Artifact | None) -> list[Markup]:
    if trained is None:
        return []
    from tasks.train import HISTORY  # torch takes seconds to import

    return training_charts(read_table(trained.file("history.parquet"), HISTORY))
