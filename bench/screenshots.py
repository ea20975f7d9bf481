"""The pictures of docs/view.md: ``python -m bench.screenshots RUN --other RUN2``, over runs of the tiny world.

Takes Debian's Chromium without a screen. The pictures have few colours, so that each stays small; one of more than
150,000 bytes is an error. With `--home` another store than CIRQUE_HOME's is shown.
"""

import argparse
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from bench.view import served

CHROMIUM = "/usr/bin/chromium"
OUT = Path(__file__).parents[1] / "docs" / "images"
MOST = 150_000
SIZE = (1280, 860)


def take(run: str, other: str, gallery: Path | None, only: Sequence[str]) -> None:
    """Open every tab and keep what it looks like."""
    from playwright.sync_api import sync_playwright

    with served(run, "--author", "ann") as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.set_default_timeout(600_000)
        for name, draw in _TABS.items():
            if not only or name in only:
                draw(page, address, {"run": run, "other": other, "gallery": gallery, "checkpoint": run})
                page.wait_for_timeout(1500)  # pictures come after the texts
                _keep(page.screenshot(), OUT / f"view-{name}.png")
        browser.close()


def _triplets(page: Any, address: str, given: dict[str, Any]) -> None:
    page.goto(address + "?q=circle&sort=score&down=1")
    page.locator(".card").nth(3).wait_for()
    page.keyboard.press("a")
    page.locator(".card.approved").first.wait_for()
    page.keyboard.press("r")
    page.locator(".card.rejected").first.wait_for()


def _detail(page: Any, address: str, given: dict[str, Any]) -> None:
    page.goto(address + "?sort=score")
    page.locator(".card").first.press("Enter")
    page.locator(".neighbour.target").wait_for()


def _statistics(page: Any, address: str, given: dict[str, Any]) -> None:
    page.goto(address + "?tab=statistics")
    page.locator(".chart").nth(3).wait_for()


def _dropped(page: Any, address: str, given: dict[str, Any]) -> None:
    page.goto(address + "?tab=dropped")
    page.locator(".reason", has_text="filter").first.click()
    page.locator(".panel .why").first.wait_for()


def _quality(page: Any, address: str, given: dict[str, Any]) -> None:
    page.goto(address + "?verdict=unjudged&sample=20")
    page.locator(".card, .empty").first.wait_for()
    for place in range(min(11, page.locator(".card").count())):  # an earlier time judged some
        page.keyboard.press("r" if place == 4 else "a")
        page.locator(".card.approved, .card.rejected").nth(place).wait_for()
    page.get_by_role("tab", name="Quality").click()
    page.get_by_label("Sample", exact=True).fill("20")
    page.get_by_text("judged triplets are good").wait_for()


def _try(page: Any, address: str, given: dict[str, Any]) -> None:
    page.set_viewport_size({"width": SIZE[0], "height": 1320})
    page.goto(address + "?tab=try")
    page.get_by_label("Checkpoint").fill(given["checkpoint"])
    if given["gallery"] is not None:
        page.get_by_label("Gallery: a folder").fill(str(given["gallery"]))
    page.get_by_role("button", name="Open").click()
    page.locator(".pick-image").nth(1).click()
    page.locator(".held-picture img").wait_for()
    page.get_by_label("Modification, such as").fill("make the background pink")
    page.keyboard.press("Enter")
    page.locator(".hit").first.click()
    page.locator(".overlays img").nth(1).wait_for()
    page.locator(".trial").evaluate("form => form.scrollIntoView()")


def _compare(page: Any, address: str, given: dict[str, Any]) -> None:
    page.set_viewport_size({"width": SIZE[0], "height": 1100})
    page.goto(address + "?" + urlencode({"tab": "compare", "left": given["other"], "right": given["run"]}))
    page.get_by_text("Texts about the same references").wait_for()
    page.locator(".versus").first.wait_for()
    page.get_by_label("Right in").click()
    page.get_by_role("option", name="neither").click()
    page.locator(".query").first.wait_for()
    page.get_by_role("heading", name="Queries").evaluate("heading => heading.scrollIntoView()")


_TABS = {
    "triplets": _triplets,
    "detail": _detail,
    "statistics": _statistics,
    "dropped": _dropped,
    "quality": _quality,
    "try": _try,
    "compare": _compare,
}


def _keep(data: bytes, path: Path) -> None:
    """Write a picture with few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    small = Image.open(io.BytesIO(data)).convert("RGB").quantize(224, dither=Image.Dither.NONE)
    small.save(written, "PNG", optimize=True)
    if written.tell() > MOST:
        raise ValueError(f"{path} would have {written.tell():,} bytes; at most {MOST:,} are kept")
    path.write_bytes(written.getvalue())
    print(f"{path}: {written.tell():,} bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The pictures of docs/view.md.")
    parser.add_argument("run", help="a whole run of the tiny world")
    parser.add_argument("--other", help="the run it is compared with; the same if left out")
    parser.add_argument("--home", type=Path, help="a store other than CIRQUE_HOME")
    parser.add_argument("--gallery", type=Path, help="images to search; the run's own if left out")
    parser.add_argument(
        "--only", nargs="*", default=(), choices=tuple(_TABS), help="tabs to take anew; all if left out"
    )
    options = parser.parse_args(arguments)
    if options.home is not None:
        os.environ["CIRQUE_HOME"] = str(options.home)
    take(options.run, options.other or options.run, options.gallery, options.only)


if __name__ == "__main__":
    main()
