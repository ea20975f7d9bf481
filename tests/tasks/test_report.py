"""The report of a made-up run, read as a browser and a screen reader would."""

import html
import itertools
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.artifact import Artifact, Counts, seal
from data.config import Resources
from data.schemas import PAIRS, SCORES, TESTS, TRIPLETS
from tasks.filter import FilterConfig, filter
from tasks.report import ReportConfig, report
from tasks.report_cards import LONGEST, sampled, shortened
from tasks.report_parts import flattened, headlines
from tasks.report_plots import Frame, Line, lines, number, thinned, ticks
from tests.models.tiny_blip2 import noise_images
from tests.tasks.report_artifacts import pair_rows, put, score_rows, triplet_rows, whole_run

VOID = {"meta", "img", "br", "path", "circle"}


class Page(HTMLParser):
    """Elements with their attributes, and the text; refuses elements that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Artifact]:
    return whole_run(tmp_path, {f"photo-{k}": image for k, image in enumerate(noise_images(6))})


def make(folder: Path, run: dict[str, Any], **config: Any) -> tuple[str, Counts]:
    out = folder / "report"
    out.mkdir(exist_ok=True)
    counts = report.fn(out, ReportConfig(**config), **run)
    return (out / "report.html").read_text(encoding="utf-8"), counts


def test_the_page_holds_all_it_shows(tmp_path: Path, run: dict[str, Artifact]) -> None:
    text, counts = make(tmp_path, run)
    page = Page(text)
    assert page.all("script") == []
    assert page.all("link") == []
    assert {image["src"][:16] for image in page.all("img")} == {"data:image/webp;"}
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert "://" not in text
    assert "url(" not in text
    assert {"content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"}.items() <= page.all("meta")[
        3
    ].items()
    assert (counts.read, counts.kept, counts.written) == (3, 3, 1)
    assert counts.detail["shown"] == 3
    assert counts.detail["pictures_missing"] == 0


def test_texts_of_models_are_text(tmp_path: Path, run: dict[str, Artifact]) -> None:
    text, _ = make(tmp_path, run)
    assert "<script" not in text
    assert text.count(html.escape("<script>alert('x')</script>", quote=False).replace("'", "&#39;")) >= 4
    shown = Page(text).text
    assert "<script>alert('x')</script> & more" in shown  # the modification
    assert "I think <script>alert('x')</script> so so" in shown  # the rejected answer


def test_every_stage_accounts_for_its_rows(tmp_path: Path, run: dict[str, Artifact]) -> None:
    shown = Page(make(tmp_path, run)[0]).text
    assert "ingest 13 6 truncated 7 6 12.3" in shown  # 6 images and 7 faulty files
    assert "sample 6 3 ranking_too_short 3 3 12.3" in shown
    assert "encode 6 6 0 6 12.3" in shown
    assert "window 51 to 60" in shown
    assert "ingest: truncated 7 The first 5 of 7" in shown
    assert "broken/4.jpg cut after 4 bytes" in shown
    assert "broken/5.jpg" not in shown


def test_scores_stand_beside_the_baselines(tmp_path: Path, run: dict[str, Artifact]) -> None:
    text, _ = make(tmp_path, run)
    shown = Page(text).text
    # 41.6 / 17.0 = 2.447
    assert (
        "tiny_single: composed reaches recall@1 of 41.6 % (39.1 to 44.3); the best baseline, image + text, 17.0 %,"
        " so 2.4 times as much." in shown
    )
    assert "metric image only text only image + text composed, mean of 3 seeds" in shown
    assert "recall@1 14.2 11.7–16.9 3.1 0.6–5.8 17.0 14.5–19.7 41.6 39.1–44.3" in shown
    assert "<strong>41.6</strong>" in text
    assert "tiny_single (val): recall@1 by kind of edit" in shown
    assert "colour 500 14.2" in shown


def test_headlines_do_without_a_baseline_and_without_dividing_by_zero() -> None:
    rows = [row | {"value": 0.0} for row in score_rows() if row["method"] in ("image_only", "composed")]
    assert headlines(rows)[0].endswith("the best baseline, image only, 0.0 %.")
    assert headlines([row for row in rows if row["method"] == "composed"])[0].endswith("(39.1 to 44.3).")


def test_the_page_can_be_read_without_seeing_it(tmp_path: Path, run: dict[str, Artifact]) -> None:
    page = Page(make(tmp_path, run)[0])
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("img")[0]["alt"].startswith("Reference image photo-0: a large red circle")
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 6
    assert all(chart["aria-label"] for chart in charts)
    assert charts[3]["aria-label"].startswith("Training loss. seed 0 ends at ")
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)


def test_vanished_and_broken_images_become_labelled_boxes(tmp_path: Path, run: dict[str, Artifact]) -> None:
    (tmp_path / "files" / "photo-0.png").unlink()
    (tmp_path / "files" / "photo-1.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    text, counts = make(tmp_path, run)
    boxes = [attributes["aria-label"] for tag, attributes in Page(text).elements if attributes.get("class") == "gone"]
    # photo-0 is shown once, photo-1 as a target and as a reference
    assert counts.detail["pictures_missing"] == len(boxes) == 3
    assert boxes[0].startswith("Reference image photo-0: the image file cannot be ")
    assert boxes[1].startswith("Target image photo-1: the image file cannot be shown: ")


def test_an_image_that_was_never_ingested_is_named(tmp_path: Path, run: dict[str, Artifact]) -> None:
    rows = list(triplet_rows(["elsewhere"], 1))
    counts = Counts(read=1, kept=1, written=1)
    run["triplets"] = put(tmp_path / "other", "generate", counts, {"triplets.parquet": (TRIPLETS, rows)})
    assert "elsewhere: not among the ingested images" in make(tmp_path, run)[0]


def test_recipes_without_ranking_or_training_have_a_page_too(tmp_path: Path, run: dict[str, Artifact]) -> None:
    row = next(triplet_rows(["photo-0"], 1)) | {"target_id": None, "target_text": "a blue circle on sand", "rank": None}
    counts = Counts(read=1, kept=1, written=1)
    triplets = put(tmp_path / "other", "generate", counts, {"triplets.parquet": (TRIPLETS, [row])})
    some = {"images": run["images"], "triplets": triplets}
    missing = dict.fromkeys(["ranking", "pairs", "trained", "scores"])
    text, _ = make(tmp_path, some | missing)
    shown = Page(text).text
    assert "Target text a blue circle on sand" in shown
    assert "Training" not in shown
    assert "Ranking and windows" not in shown
    assert "Scores" not in shown
    assert "rank " not in shown


def test_filters_show_what_they_kept_and_what_they_dropped(tmp_path: Path, run: dict[str, Artifact]) -> None:
    out = tmp_path / "kept"
    out.mkdir()
    config = FilterConfig.model_validate({"too_long": {"threshold": 6}})
    counts = filter.fn(out, config, run["triplets"], run["images"], run["tokens"], resources=Resources())
    kept = seal(out, counts, stage="filter")
    text, counts = make(tmp_path, run | {"kept": kept})
    shown = Page(text).text
    # Of three triplets the first has another modification, of five words, and another caption.
    assert "too_long at most 6 3 1 2 33.3 % 0" in shown
    assert "Dropped by too_long 2" in shown
    assert "10, at most 6; make the circle blue and move it to the left" in shown
    assert "names_target at most 0.9 1 1 0 100.0 % short_caption 1" in shown
    assert "same_text at most 0.98 1 1 0 100.0 % no_target_text 1" in shown
    assert (counts.read, counts.detail["shown"]) == (1, 1)


def test_no_triplets_make_a_page(tmp_path: Path, run: dict[str, Artifact]) -> None:
    counts = Counts(read=0, kept=0, written=0)
    run["triplets"] = put(tmp_path / "other", "generate", counts, {"triplets.parquet": (TRIPLETS, [])})
    run["pairs"] = put(tmp_path / "other", "sample", counts, {"pairs.parquet": (PAIRS, [])})
    text, counts = make(tmp_path, run)
    assert "There are none." in Page(text).text
    assert counts.read == 0


def test_sixty_triplets_of_noise_stay_below_three_megabytes(tmp_path: Path) -> None:
    pictures = {f"photo-{k:02d}": image for k, image in enumerate(noise_images(61, size=(160, 160)))}
    text, counts = make(tmp_path, whole_run(tmp_path, pictures, triplets=60))
    assert counts.detail["shown"] == 60
    assert len(text) < 3_000_000  # noise is the worst that a picture can be


def test_the_draw_is_seeded_and_the_page_repeats(tmp_path: Path) -> None:
    run = whole_run(tmp_path, {f"photo-{k}": image for k, image in enumerate(noise_images(20))}, triplets=20)
    first, counts = make(tmp_path, run, triplets=5)
    assert (counts.read, counts.detail["shown"]) == (20, 5)
    assert make(tmp_path, run, triplets=5)[0] == first
    assert make(tmp_path, run, triplets=5, seed=1)[0] != first
    assert "5 of 20, drawn at random with seed 0." in Page(first).text


def test_samples_are_the_same_however_the_file_is_cut(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(list(pair_rows(["a", "b"], 10)), schema=PAIRS)
    pq.write_table(table, tmp_path / "whole.parquet")
    pq.write_table(table, tmp_path / "cut.parquet", row_group_size=3)
    total, rows = sampled(tmp_path / "whole.parquet", PAIRS, 4, seed=0)
    assert total == 10
    assert [row["pair_id"] for row in rows] == sorted(row["pair_id"] for row in rows)
    assert sampled(tmp_path / "cut.parquet", PAIRS, 4, seed=0) == (10, rows)
    with pytest.raises(ValueError, match="another schema"):
        sampled(tmp_path / "cut.parquet", TRIPLETS, 4, seed=0)


def test_ticks_are_round_and_enclose() -> None:
    assert ticks([0, 100]) == [0, 20, 40, 60, 80, 100]
    assert ticks([3, 42]) == [0, 10, 20, 30, 40, 50]  # 0 is near
    assert ticks([0.81, 0.95]) == pytest.approx([0.8, 0.85, 0.9, 0.95])
    assert ticks([8]) == [4, 6, 8, 10, 12]  # 8 alone: half of it to either side
    assert ticks([0, 0])[0] < 0 < ticks([0, 0])[-1]
    with pytest.raises(ValueError, match="finite"):
        ticks([float("nan")])
    assert [number(value) for value in (0.30000000000000004, 20.0, 12000.0)] == ["0.3", "20", "12,000"]


def test_a_frame_maps_its_corners() -> None:
    frame = Frame([0, 100], [0, 1])
    # 560 wide with margins of 58 and 16: 58 to 544; 300 high with margins of 14 and 46: 254 up to 14
    assert (frame.x(0), frame.x(100), frame.x(50)) == (58, 544, 301)
    assert (frame.y(0), frame.y(1)) == (254, 14)


def test_names_in_charts_are_escaped() -> None:
    drawn = lines("a < b", "told", "x", "y", [Line("<b>", [(0, 1), (1, 2)])])
    assert "a &lt; b" in drawn
    assert "&lt;b&gt;" in drawn
    assert "<b>" not in drawn


def test_long_lines_are_thinned_to_means() -> None:
    # 6 points to 3: neighbours (0, 1), (2, 3), (4, 5) give x of 0.5, 2.5, 4.5
    assert thinned([(float(k), 2.0 * k) for k in range(6)], most=3) == [(0.5, 1.0), (2.5, 5.0), (4.5, 9.0)]


def test_figures_are_flattened_for_reading() -> None:
    detail = {"score": {"mean": 0.123456, "histogram": list(range(20))}, "window": [51, 60], "cut": 1234, "ok": True}
    assert list(flattened(detail)) == [
        ("score, mean", "0.1235"),
        ("window", "51 to 60"),
        ("cut", "1,234"),
        ("ok", "yes"),
    ]
    assert shortened("x" * (LONGEST + 3)) == "x" * LONGEST + " … (3 more characters)"


def test_differences_are_told_where_they_were_tested(tmp_path: Path, run: dict[str, Artifact]) -> None:
    row = {"benchmark": "tiny_single", "metric": "recall@1", "method": "composed", "other": "image_only"}
    rows = [{**row, "difference": 27.4, "p": 0.0001, "queries": 500}]
    done = Counts(read=1, kept=1, written=1)
    tables = {"scores.parquet": (SCORES, list(score_rows())), "tests.parquet": (TESTS, rows)}
    page = Page(make(tmp_path, run | {"scores": put(tmp_path, "tested", done, tables)})[0])
    assert "Differences, query by query" in page.text
    assert "tiny_single recall@1 composed image only +27.4 < 0.001" in page.text
    assert "Differences, query by query" not in Page(make(tmp_path, run)[0]).text


def test_yields_are_drawn_and_said(tmp_path: Path, run: dict[str, Artifact]) -> None:
    page = Page(make(tmp_path, run)[0])
    labels = [svg.get("aria-label", "") for svg in page.all("svg")]
    told = next(label for label in labels if label.startswith("Rows that each stage kept"))
    assert "ingest kept 46.2 %, 6 of 13; " in told  # 7 of 13 files are broken
    assert "generate kept 75.0 %, 3 of 4; " in told
    assert "Rows that each stage kept" in page.text
