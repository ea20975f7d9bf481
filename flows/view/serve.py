"""The server behind the page: routes, limits, and where it listens."""

import contextlib
import getpass
import ipaddress
import logging
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from nicegui import app as nicegui_app
from nicegui import run, ui

from flows.view.guard import LOOPBACK, Guard
from flows.view.page import Page
from flows.view.parts import IMAGES, World
from tasks.runs import recorded_runs
from tasks.trained import checkpoint_of
from tasks.view_source import Source, open_source

STYLE = Path(__file__).with_name("view.css")


def serve(
    source: str | None,
    host: str,
    port: int,
    author: str | None,
    checkpoint: str | None,
    gallery: Path | None,
    open_page: bool,
) -> None:
    """Show triplets until somebody stops it; see `flows.view.view`.

    Raises:
        LookupError, OSError, ValueError: if there is nothing to show, or the address is taken.
    """
    opened = open_source(source)
    checkpoint = checkpoint or usual_checkpoint(source, opened)
    name = f"run {source}" if source in recorded_runs() else "triplets"
    world = World(opened, name, author or _user(), {IMAGES: opened.pictures}, checkpoint, str(gallery or "") or None)
    listening = listen(host, port)
    place = f"[{host}]" if ":" in host else host
    address = f"http://{place}:{listening.getsockname()[1]}/"
    settings = uvicorn.Config(
        build(world, host), log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(settings)
    if not is_loopback(host):
        print(f"note: {host} is not loopback: whoever reaches this machine there can look and judge", flush=True)
    print(f"showing {world.name} at {address} (Ctrl-C stops it)", flush=True)
    if open_page:
        nicegui_app.on_startup(lambda: _browse(address))
    with listening, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    if threading.active_count() > 1:
        # A gallery may be being encoded, which goes on from its last part another time: nobody waits for that now.
        sys.stdout.flush()
        os._exit(0)


def build(world: World, host: str) -> Any:
    """The whole application, as ASGI; once per process, because NiceGUI has one app."""
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @web.get("/picture")
    async def picture(of: str, id: str, side: int) -> Response:
        """A small picture of one of the images that are open; 404 in words where there is none."""
        if of not in world.pictures:
            return Response("no such pictures are open", 404, media_type="text/plain")
        try:
            shown = await run.io_bound(world.pictures[of].get, id, side)
        except ValueError as error:
            return Response(str(error), 400, media_type="text/plain")
        if shown is None or shown.problem:
            return Response(shown.problem if shown else "stopped", 404, media_type="text/plain")
        return Response(shown.data, media_type="image/webp", headers={"cache-control": "private, max-age=600"})

    @web.get("/view.css")
    async def style() -> Response:
        """The page's style."""
        return Response(STYLE.read_bytes(), media_type="text/css")

    @ui.page("/", title="Cirque", dark=None, response_timeout=30)
    async def index(request: Request) -> None:
        ui.add_head_html('<link rel="stylesheet" href="/view.css">')
        await Page(world, request.url.query).start()

    logging.getLogger("nicegui").setLevel(logging.WARNING)
    ui.run_with(web, title="Cirque", favicon="◎", tailwind=False, show_welcome_message=False, reconnect_timeout=20)
    return Guard(web, [*LOOPBACK, host] if is_loopback(host) else None)


def usual_checkpoint(name: str | None, opened: Source) -> str | None:
    """What one would try first: what the run trained, else what encoded the images."""
    runs = recorded_runs()
    run = name or (runs[-1] if runs else "")
    if run in runs:
        try:
            checkpoint_of(run)
        except LookupError:
            pass
        else:
            return run
    encoded = next((one for one in reversed(opened.line) if one.stage == "encode"), None)
    return None if encoded is None else str(encoded.manifest["config"]["checkpoint"])


def is_loopback(host: str) -> bool:
    """Whether nobody else can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        OSError: if the address is taken or not this machine's; the message says what to do.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OSError(f"{host} is no address of this machine ({error.strerror}); try --host 127.0.0.1") from error
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(place)
        made.listen(128)
    except OSError as error:
        made.close()
        raise OSError(
            f"cannot listen at {host}, port {port}: {error.strerror}; try another port, or --port 0"
        ) from error
    return made


def _browse(address: str) -> None:
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.name != "posix":
        webbrowser.open(address)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
