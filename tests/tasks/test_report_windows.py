"""The report's section on ranking and windows."""

from pathlib import Path
from typing import Any

import pytest

from data.artifact import Artifact, Counts, seal
from tasks.report import ReportConfig, report
from tasks.report_plots import bars
from tasks.report_windows import certainty, drawn_chart
from tasks.windows import WindowsConfig, windows
from tests.models.tiny_blip2 import noise_images
from tests.tasks.report_artifacts import whole_run
from tests.tasks.test_report import Page


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Artifact]:
    return whole_run(tmp_path, {f"photo-{k}": image for k, image in enumerate(noise_images(6))})


def page_of(folder: Path, run: dict[str, Any], **config: Any) -> tuple[Page, str]:
    (folder / "windows").mkdir()
    compared = WindowsConfig.model_validate({"windows": ["1-10", "51-60", "101-110"], "examples": 2} | config)
    counts = windows.fn(folder / "windows", compared, run["ranking"])
    run["windows"] = seal(folder / "windows", counts, stage="windows", config=compared.model_dump(mode="json"))
    (folder / "report").mkdir()
    report.fn(folder / "report", ReportConfig(), **run)
    text = (folder / "report" / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_windows_stand_side_by_side_with_pictures(tmp_path: Path, run: dict[str, Artifact]) -> None:
    page, _ = page_of(tmp_path, run)
    shown = page.text
    assert "window references mean similarity 5 % to 95 % above 0.96 targets drawn again most often" in shown
    # 6 references with one candidate each, again and again: one target, drawn by all six.
    assert "ranks 51 to 60 6 0." in shown
    assert "1 83.3 % 6 ranks 101 to 110 0 no reference has a candidate in it" in shown
    labels = [svg.get("aria-label", "") for svg in page.all("svg")]
    sweep = next(label for label in labels if label.startswith("Similarity by window"))
    assert "ranks 1 to 10 0." in sweep
    assert "ranks 101 to 110" not in sweep
    alts = [image["alt"] for image in page.all("img")]
    for rank in (1, 10, 55, 100):
        assert sum(alt.startswith(f"rank {rank} image photo-0: similarity 0.") for alt in alts) == 2  # two references
    assert not any(alt.startswith("rank 1,000") for alt in alts)  # the ranking ends at 100
    assert sum(alt.startswith("ranks 51 to 60: rank 5") for alt in alts) == 2


def test_the_section_keeps_the_page_readable(tmp_path: Path, run: dict[str, Artifact]) -> None:
    page, text = page_of(tmp_path, run)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    assert "://" not in text


def test_without_examples_there_is_the_table_alone(tmp_path: Path, run: dict[str, Artifact]) -> None:
    shown = page_of(tmp_path, run, examples=0)[0].text
    assert "ranks 1 to 10" in shown
    assert "Some ranks" not in shown


def test_how_sure_the_ranks_are_is_said() -> None:
    audit = {"audited": 300, "agreement": 299 / 300, "agreement_at_least": 0.9843, "confidence": 0.95, "asked": 0.98}
    assert certainty({"mode": "candidates", **audit}) == (
        "Ranked among candidates: of 300 audited references 99.7% have exactly the ranking of all images, so at least"
        " 98.43% of all references do (95% confidence; 98.00% was asked for)."
    )
    assert certainty({"mode": "exact", **audit}).startswith("Ranked exactly, because candidates did not suffice")
    assert certainty({"mode": "exact"}) == "Every rank is exact."
    assert certainty({}) == ""
    assert certainty({"audited": 5}) == "5 references were audited; the figures of rank say with what result."


def test_the_draws_are_counted_in_a_chart() -> None:
    chart = drawn_chart({"targets": {"distinct": 7, "most_drawn": 3, "drawn_times": [[1, 5], [3, 2]]}})
    assert chart is not None
    assert chart.count("<rect") == 2
    assert "7 images are targets, the most frequent one 3 times." in chart
    assert drawn_chart({}) is None
    assert drawn_chart({"targets": {"drawn_times": []}}) is None


def test_bars_are_as_high_as_what_they_count() -> None:
    # y from 254 (0) to 14 (10): 5 of 10 is 120 high and ends at 134.
    chart = bars("t", "told", "x", "y", [(1, 10), (2, 5)])
    assert 'y="14.0"' in chart
    assert 'height="240.0"' in chart
    assert 'y="134.0"' in chart
    assert 'height="120.0"' in chart


def test_a_run_without_windows_has_no_empty_section(tmp_path: Path, run: dict[str, Artifact]) -> None:
    (tmp_path / "report").mkdir()
    report.fn(tmp_path / "report", ReportConfig(), **(run | {"pairs": None, "ranking": None}))
    assert "Ranking and windows" not in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_counts_of_the_stage_are_among_the_stages(tmp_path: Path, run: dict[str, Artifact]) -> None:
    shown = page_of(tmp_path, run)[0].text
    assert "windows 6 6 0 3 " in shown
    assert Counts.model_validate(run["windows"].counts).written == 3
