"""The tab in which a retriever is tried: a reference, a text, what is found, and why."""

import base64
import io
from pathlib import Path
from typing import Any

from nicegui import run, ui
from nicegui.events import UploadEventArguments
from PIL import Image

from data.images import BadImage
from flows.view.parts import World, busy, empty, picture, tag, told, wrong
from flows.view.reason import draw_reason
from tasks.search import Hit
from tasks.view_images import Pictures
from tasks.view_search import MOST_BYTES, Answer, Reference, Retriever

SHOWN = 12
_ERRORS = (LookupError, OSError, ValueError, BadImage)


class Trial:
    """A form for checkpoint and gallery, and below it one for the query."""

    def __init__(self, world: World) -> None:
        """Draw the first form."""
        self._world = world
        self._retriever: Retriever | None = None
        self._reference: Reference | None = None
        self._of = ""
        self._seed = 0
        tag("h2", "Try a retriever")
        with tag("div", classes="toolbar"):
            self._checkpoint = ui.input("Checkpoint", value=world.checkpoint or "")
            self._checkpoint.props("outlined dense").classes("search")
            self._folder = ui.input("Gallery: a folder, or nothing for the triplets' images", value=world.gallery or "")
            self._folder.props("outlined dense").classes("search")
            ui.button("Open", on_click=self.open).props("unelevated no-caps")
        self._box = tag("div")
        with self._box:
            empty(
                "Open a checkpoint (a name, a folder, a run, or RUN/seed-1) over a gallery. Images that the store has"
                " no tokens of are encoded first, which may take a while."
            )

    async def open(self) -> None:
        """Open what the form says."""
        folder = self._folder.value.strip()
        self._box.clear()
        with self._box:
            busy("opening the gallery; images that are new are encoded first")
        images = self._world.source.pictures.images
        arguments = (self._checkpoint.value.strip(), None if folder else images, Path(folder) if folder else None)
        try:
            self._retriever = await run.io_bound(Retriever, *arguments)
        except _ERRORS as error:
            self._box.clear()
            with self._box:
                tag("p", told(error), "problem", role="alert")
            return
        if self._retriever is None:
            return
        gallery = self._retriever.gallery.images
        self._of = f"gallery-{gallery.key}"
        self._world.pictures.setdefault(self._of, Pictures(gallery))
        self._box.clear()
        with self._box:
            self._draw(len(self._retriever.gallery.rows))

    def _draw(self, images: int) -> None:
        tag("p", f"{images:,} images are open. Pick a reference, or give one of your own.", "count", role="status")
        with tag("div", classes="trial"):
            with tag("div", classes="held"):
                tag("h3", "Reference")
                self._held = tag("div", classes="held-picture")
                with self._held:
                    tag("p", "none yet", "soft")
                upload = ui.upload(
                    label="Your own image", auto_upload=True, max_file_size=MOST_BYTES, on_upload=self._uploaded,
                    on_rejected=lambda: wrong(f"an image of at most {MOST_BYTES // 2**20} MB is taken"),
                )  # fmt: skip
                upload.props('accept="image/*" flat bordered').classes("upload")
            with tag("div", classes="asked"):
                with tag("div", classes="toolbar"):
                    self._part = ui.input("Images whose name has").props('outlined dense clearable debounce="350"')
                    self._part.on_value_change(self._offer)
                    ui.button("Others", on_click=self._others).props("outline no-caps")
                self._offered = tag("div", classes="strip offered", role="group", aria_label="pick a reference")
                self._text = ui.input("Modification, such as: make it red").props("outlined").classes("modify")
                self._text.props["maxlength"] = 2000
                self._text.on("keydown.enter.prevent", self.search)
                with tag("div", classes="toolbar"):
                    self._k = ui.number("Images to find", value=12, min=1, max=200, precision=0)
                    self._k.props("outlined dense").classes("size")
                    self._keep = ui.checkbox("the reference may be found too", value=False)
                    ui.button("Search", on_click=self.search).props("unelevated no-caps")
        self._status = tag("p", "", "count", role="status", aria_live="polite")
        self._found = tag("div", classes="hits")
        self._why = tag("div", classes="reason-of", id="reason")
        ui.timer(0, self._offer, once=True)

    async def _others(self) -> None:
        self._seed += 1
        await self._offer()

    async def _offer(self) -> None:
        """Show some images to pick from."""
        pictures = self._world.pictures[self._of]
        assert isinstance(pictures, Pictures)
        ids = await run.io_bound(pictures.some, SHOWN, self._seed, (self._part.value or "").strip()) or []
        self._offered.clear()
        with self._offered:
            for image_id in ids:
                button = tag("button", classes="pick-image", type="button", aria_label=f"take {image_id}")
                with button:
                    picture(self._world, self._of, image_id, 96, "image")
                button.on("click", lambda image_id=image_id: self._pick(image_id))
            if not ids:
                empty("No image has such a name.")

    async def _pick(self, image_id: str) -> None:
        assert self._retriever is not None
        await self._hold(self._retriever.pick, image_id)

    async def _uploaded(self, event: UploadEventArguments) -> None:
        assert self._retriever is not None
        data = await event.file.read()
        await self._hold(self._retriever.take, event.file.name, data)
        if isinstance(event.sender, ui.upload):
            event.sender.reset()

    async def _hold(self, make: Any, *arguments: Any) -> None:
        try:
            self._reference = await run.io_bound(make, *arguments)
        except _ERRORS as error:
            wrong(told(error))
            return
        if self._reference is None:
            return
        self._held.clear()
        with self._held:
            shown = self._reference.image.copy()
            shown.thumbnail((192, 192))
            tag("img", src=data_address(shown), alt=f"reference: {self._reference.name}")
            tag("p", self._reference.name, "soft", dir="auto")

    async def search(self) -> None:
        """Answer the query of the form."""
        if self._retriever is None:
            return
        if self._reference is None:
            wrong("pick a reference first, or give an image of your own")
            return
        k = max(1, int(self._k.value or 12))
        try:
            answer = await run.io_bound(
                self._retriever.search, self._reference, self._text.value or "", k, bool(self._keep.value)
            )
        except _ERRORS as error:
            wrong(told(error))
            return
        if answer is not None:
            self._answered(answer)

    def _answered(self, answer: Answer) -> None:
        assert self._retriever is not None
        images = len(self._retriever.gallery.rows)
        left_out = ", the reference left out" if answer.excluded else ""
        self._status._text = f"{images:,} images{left_out}, composed and ranked exactly in {answer.seconds:.3f} s"
        self._status.update()
        self._why.clear()
        self._found.clear()
        with self._found:
            for hit in answer.hits:
                button = tag("button", classes="hit", type="button", aria_label=f"rank {hit.rank}: why?")
                with button:
                    picture(self._world, self._of, hit.image_id, 192, f"rank {hit.rank}")
                    tag("b", f"{hit.rank}. {hit.score:.4f}")
                    tag("span", hit.image_id, "soft id", dir="auto")
                button.on("click", lambda hit=hit: self._explain(answer, hit))

    async def _explain(self, answer: Answer, hit: Hit) -> None:
        assert self._retriever is not None
        self._why.clear()
        with self._why:
            await draw_reason(self._retriever, answer, hit, data_address)
        ui.run_javascript("document.getElementById('reason').scrollIntoView({block: 'nearest'})")


def data_address(image: Image.Image) -> str:
    """A picture inside of the page."""
    written = io.BytesIO()
    image.save(written, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode("ascii")
