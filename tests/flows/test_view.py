"""The page in a real browser, without a screen: what people do with it, from browsing to an export."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.artifact import Artifact, Counts
from data.schemas import TRIPLETS
from tests.tasks.test_view_compare import evaluation, run
from tests.tasks.view_world import SCRIPT, put, small_world, triplet

CHROMIUM = Path("/usr/bin/chromium")
MILLISECONDS = 90_000  # a busy machine starts a page in half a minute
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no browser at {CHROMIUM} (apt install chromium)"),
]


@contextmanager
def served(artifact: Artifact, *words: str) -> Iterator[str]:
    """The page's address while the command runs; it has to end by itself when it is asked to."""
    command = [sys.executable, "-m", "flows", "view", str(artifact.path), "--port", "0", "--no-open", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            address = re.search(r"http://\S+/", first)
            assert address is not None, first + process.stdout.read()
            yield address[0]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                rest = process.communicate(timeout=60)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert "Traceback" not in rest, rest


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos")


@pytest.fixture(scope="module")
def triplets(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[Artifact]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIRQUE_HOME", str(tmp_path_factory.mktemp("home")))
        yield small_world(photos, triplets=30, images=6, gone=3, texts=(11,))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(triplets: Artifact) -> Iterator[str]:
    with served(triplets, "--author", "ann") as found:
        yield found


class Seen:
    """A browser's page, and what went wrong or elsewhere on it."""

    def __init__(self, browser: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1300, "height": 900})
        self.page.set_default_timeout(MILLISECONDS)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, url: str) -> Any:
        self.page.goto(url)
        return self.page


@pytest.fixture
def seen(browser: Any, address: str) -> Iterator[Seen]:
    made = Seen(browser)
    yield made
    made.page.close()
    elsewhere = [url for url in made.requests if not url.startswith((address, "data:", "blob:"))]
    assert (elsewhere, made.errors) == ([], [])


def texts(page: Any) -> list[str]:
    found: list[str] = page.locator(".card .modification").all_inner_texts()
    return found


def shows(page: Any, count: str) -> None:
    page.locator(".gallery .count", has_text=count).first.wait_for()


def test_browse_filter_search_and_open(seen: Seen, address: str) -> None:
    page = seen.open(address)
    shows(page, "1 to 24 of 30 triplets")
    assert len(texts(page)) == 24
    second = page.locator(".card").nth(1)
    assert second.locator(".verdicts").inner_text().replace("\xa0", " ") == "✓ passed too_long 1"
    assert second.locator(".chip", has_text="prompt").inner_text() == "prompt mra_cir/modification"
    page.get_by_role("button", name="next →").click()
    shows(page, "25 to 30 of 30 triplets")
    page.wait_for_url(re.compile("page=2"))  # told to the browser after the cards

    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("Column").click()
    page.get_by_role("option", name="rank", exact=True).click()
    page.get_by_label("Value").fill("59")
    page.get_by_role("button", name="Apply").click()
    shows(page, "1 to 6 of 6 triplets (of 30 in all)")
    page.get_by_label("Search the texts").fill('"9 times"')
    shows(page, "of 3 triplets")
    assert texts(page) == [
        f"make it {colour} and turn it {turn} times" for colour, turn in (("yellow", 9), ("green", 19), ("white", 29))
    ]
    page.wait_for_url(re.compile("q=%229"))
    again = page.url
    page.goto(again)  # a link opens the same
    shows(page, "of 3 triplets")

    page.locator(".card").nth(1).press("Enter")
    detail = page.locator(".detail")
    detail.get_by_text("Rendered prompt").wait_for()
    assert "What changes?" in detail.inner_text()
    assert '{"modification": "make it green and turn it 19 times"}' in detail.inner_text()
    assert detail.locator(".neighbour.target").count() > 0
    assert "too_long" in detail.inner_text()
    page.keyboard.press("Escape")
    detail.wait_for(state="hidden")


def test_a_text_is_text_and_a_missing_image_says_so(seen: Seen, address: str) -> None:
    page = seen.open(address + "?open=t0000")
    page.locator(".detail").get_by_text("Rendered prompt").wait_for()
    assert texts(page)[0] == SCRIPT
    assert page.locator(".detail .modification").inner_text() == SCRIPT
    assert page.locator("b", has_text="bold").count() == 0
    assert page.title() != "taken over"
    page.keyboard.press("Escape")
    page.locator(".card .gone").wait_for()
    assert "gone.png: the image file cannot be" in page.locator(".card .gone").inner_text()


def test_figures_dropped_rows_and_a_sample(seen: Seen, address: str) -> None:
    page = seen.open(address + "?tab=statistics")
    page.get_by_text("most frequent words of the modifications").wait_for()
    page.get_by_role("button", name="short", exact=True).click()
    shows(page, "15 triplets")
    page.get_by_role("tab", name="Dropped").click()
    page.get_by_text("I think").wait_for()
    assert SCRIPT in page.locator(".lost pre").inner_text()
    page.get_by_role("button", name="too long").click()
    page.locator(".panel .why", has_text="too many words").first.wait_for()
    assert "failed too_long" in page.locator(".verdicts.failed").first.inner_text()
    page.get_by_role("tab", name="Quality").click()
    page.get_by_label("Sample", exact=True).fill("5")
    page.get_by_text("None of the 5 triplets of the sample is judged yet.").wait_for()
    page.get_by_role("button", name="Judge what is left").click()
    shows(page, "1 to 5 of 5 triplets")


def test_judging_by_keyboard_survives_a_restart_and_is_exported(
    browser: Any, triplets: Artifact, tmp_path: Path
) -> None:
    with served(triplets, "--author", "bob") as address:
        page = Seen(browser).open(address + "?q=%22turn+it+1%22&sort=triplet_id")  # 1, 10 to 19
        shows(page, "11 triplets")
        page.keyboard.press("w")
        page.get_by_text("this triplet has no target text").wait_for()
        page.keyboard.press("a")
        page.locator(".card.approved").first.wait_for()
        page.keyboard.press("r")  # the next one
        page.locator(".card.rejected").first.wait_for()
        page.keyboard.press("e")
        page.get_by_label("Modification", exact=True).fill("turn it upside down")
        page.keyboard.press("Control+Enter")
        page.locator(".chip.edited").wait_for()
        page.keyboard.press("w")
        page.get_by_label("Target text", exact=True).fill(SCRIPT)
        page.keyboard.press("Control+Enter")
        page.locator(".chip.edited", has_text="target edited").wait_for()
        page.keyboard.press("t")
        page.get_by_label("Tag, such as wrong-colour").fill("odd")
        page.keyboard.press("Enter")
        page.locator(".chip.tagged").wait_for()
        page.keyboard.press("a")
        page.locator(".card.approved").nth(1).wait_for()
        page.close()
    with served(triplets) as address:
        page = Seen(browser).open(address + "?verdict=approved")
        shows(page, "2 triplets (of 30 in all)")
        assert texts(page) == ["make it green and turn it 1 times", "turn it upside down"]
        assert page.locator(".card .target-text").inner_text() == SCRIPT
        assert page.locator("b", has_text="bold").count() == 0
        page.locator(".card").nth(1).press("Enter")
        assert "was: a square that was turned 11 times" in page.locator(".detail .texts").inner_text()
        page.keyboard.press("Escape")
        assert "by bob" in str(page.locator(".chip.approved").first.get_attribute("title"))
        page.close()
    words = ["export", str(triplets.path), "--to", str(tmp_path / "out"), "--verdict", "approved"]
    subprocess.run([sys.executable, "-m", "flows", *words], check=True, env=os.environ, timeout=600)
    rows = pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert [row["modification"] for row in rows] == ["make it green and turn it 1 times", "turn it upside down"]
    assert [row["target_text"] for row in rows] == [None, SCRIPT]


def test_a_composed_search_and_why(seen: Seen, address: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("not an image")
    page = seen.open(address + "?tab=try")
    page.get_by_label("Checkpoint").fill("tiny_blip3")
    page.get_by_role("button", name="Open").click()
    page.get_by_text("no checkpoint 'tiny_blip3'").wait_for()
    page.get_by_label("Checkpoint").fill("tiny_blip2")
    page.get_by_label("Gallery: a folder").fill(str(photos))
    page.get_by_role("button", name="Open").click()
    page.get_by_text("6 images are open").wait_for(timeout=5 * MILLISECONDS)  # torch has to be imported
    page.set_input_files("input[type=file]", tmp_path / "no.png")
    page.get_by_text("no.png cannot be used: not_an_image").wait_for()
    page.get_by_role("button", name="take 0001.png").click()
    page.locator(".held-picture img").wait_for()
    page.get_by_label("Modification, such as: make it red").fill("make it red")
    page.keyboard.press("Enter")
    page.get_by_text("6 images, the reference left out, composed and ranked exactly in").wait_for()
    scores = [float(text.split()[1]) for text in page.locator(".hit b").all_inner_texts()]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    page.locator(".hit").first.click()
    page.locator(".overlays img").nth(1).wait_for()
    cosines = [float(text) for text in page.locator(".matches td.n").all_inner_texts()]
    assert sum(cosines) / len(cosines) == pytest.approx(scores[0], abs=2e-4)


def test_two_runs_side_by_side(seen: Seen, address: str, triplets: Artifact) -> None:
    rows = [triplet(place, 6, modification=f"other words {place}") for place in (1, 7)]
    fewer = put("generate", Counts(read=2, kept=2, written=2), {"triplets.parquet": (TRIPLETS, rows)})
    run("one", triplets, evaluation([[True, True, False, False]]))
    run("two", fewer, evaluation([[True, False, True, True]]))
    page = seen.open(address)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("rows of the stages: one and two").wait_for()
    metrics = page.get_by_role("row").filter(has_text="recall@1")
    assert metrics.inner_text().split("\t")[-1] == "+25.00"
    page.locator("article.query").nth(1).wait_for()  # only the right one found the targets of two
    assert page.locator("article.query").count() == 2
    assert "left ✗ not found" in page.locator("article.query").first.inner_text()
    words = page.locator("article.versus", has_text="other words 1").inner_text()
    assert "make it green and turn it 1 times" in words


def test_the_page_names_nothing_elsewhere(seen: Seen, address: str) -> None:
    page = seen.open(address)
    shows(page, "30 triplets")
    html = page.content()
    links = set(re.findall(r"""(?:src|href|url\()=?["'(]?\s*((?:https?:)?//[^"')\s]+)""", html))
    assert {link for link in links if not link.startswith(address)} == set()
    answer = page.request.get(address)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
