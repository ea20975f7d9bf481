"""Why an image was found: which token of the query matched which of the image's, and where both look."""

from collections.abc import Callable

from nicegui import run
from nicegui.element import Element
from PIL import Image

from data.images import BadImage
from flows.view.parts import busy, tag, told
from tasks.search import Hit
from tasks.view_search import Answer, Match, Retriever


async def draw_reason(retriever: Retriever, answer: Answer, hit: Hit, address: Callable[[Image.Image], str]) -> None:
    """Draw the matches of a hit, as a table and, for the one that is chosen, over both images."""
    waiting = busy("comparing tokens")
    try:
        matches = await run.io_bound(retriever.why, answer, hit)
        found = await run.io_bound(retriever.overlays, answer, hit)
    except (LookupError, OSError, BadImage) as error:
        waiting.delete()
        tag("p", told(error), "problem", role="alert")
        return
    waiting.delete()
    if not matches:
        return
    tag("h3", f"Why {hit.image_id} is at rank {hit.rank}")
    tag(
        "p",
        f"Each token of the query takes its nearest token of the image; the score {hit.score:.4f} is the mean of these"
        " cosines. Bright is where a token looks; choose a row to see another one.",
        "soft lead",
    )
    with tag("div", classes="matches"):
        shown = []
        if found is not None:
            with tag("div", classes="overlays"):
                for role in ("reference", "found image"):
                    with tag("figure"):
                        shown.append((tag("img", alt=""), tag("figcaption", "", "soft"), role))
        rows: dict[int, Element] = {}

        def choose(match: Match) -> None:
            for token, row in rows.items():
                row.classes(**({"add": "selected"} if token == match.token else {"remove": "selected"}))
            if found is None:
                return
            places = (match.token, match.image_token)
            for (image, words, role), pictures, place in zip(shown, found, places, strict=True):
                image.props["src"] = address(pictures[place])
                image.props["alt"] = f"where token {place + 1} looks in the {role}"
                words._text = f"{role}, token {place + 1}"
                words.update()

        with tag("div", classes="wide"), tag("table", classes="bars"):
            tag("caption", "tokens of the query and what they matched, the strongest first")
            with tag("thead"), tag("tr"):
                for name in ("query token", "image token", "cosine", ""):
                    tag("th", name, scope="col")
            with tag("tbody"):
                for match in matches:
                    with tag("tr") as row:
                        with tag("td"):
                            button = tag("button", f"token {match.token + 1}", "link", type="button")
                            button.on("click", lambda match=match: choose(match))
                        tag("td", f"token {match.image_token + 1}")
                        tag("td", f"{match.cosine:.4f}", "n")
                        with tag("td", classes="bar", aria_hidden="true"):
                            tag("div", style=f"width: {max(0.0, 100 * match.cosine):.1f}%")
                    rows[match.token] = row
        choose(matches[0])
