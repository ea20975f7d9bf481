"""Drawing scenes of the tiny world as pixels."""

from __future__ import annotations

import io
import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from data.tiny_world import BACKGROUNDS, COLOURS, IMAGE_SIZE, POSITIONS, SIZES, Scene

SCALE = 4  # supersampling


def _outline(shape: str, side: int) -> list[tuple[float, float]]:
    """Corners of a shape in a square of `side`, for the shapes that are polygons."""
    points: dict[str, list[tuple[float, float]]] = {
        "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
        "triangle": [(0.5, 0.02), (0.99, 0.96), (0.01, 0.96)],
        "diamond": [(0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5)],
        "cross": [
            (0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67),
            (0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33),
        ],
    }  # fmt: skip
    if shape == "star":
        corners = []
        for i in range(10):
            radius, angle = (0.53 if i % 2 == 0 else 0.22), np.pi * i / 5 - np.pi / 2
            corners.append((0.5 + radius * np.cos(angle), 0.53 + radius * np.sin(angle)))
        points["star"] = corners
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        x = 0.5 + 0.5 * np.sin(t) ** 3
        y = 0.45 - (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 30
        points["heart"] = list(zip(x.tolist(), y.tolist(), strict=True))
    return [(px * side, py * side) for px, py in points[shape]]


@cache
def sprite(shape: str, colour: str, size: str, texture: str, shifted: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw a thing once; `shifted`: its stripes run diagonally, and its dots are checks.

    Returns:
        Its pixels (side, side, 3) float32 in 0..255 and its coverage (side, side, 1) in 0..1.
    """
    side = SIZES[size]
    big = side * SCALE
    mask = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        pen.ellipse((0, 0, big - 1, big - 1), fill=255)
        if shape == "ring":
            hole = big * 0.3
            pen.ellipse((hole, hole, big - 1 - hole, big - 1 - hole), fill=0)
    else:
        pen.polygon(_outline(shape, big - 1), fill=255)
    base = np.array(COLOURS[colour], dtype=np.float32)
    pixels = np.broadcast_to(base, (big, big, 3)).copy()
    y, x = np.mgrid[0:big, 0:big] / SCALE
    period = 6.0 if size == "large" else 5.0
    dark = base * 0.3 + 25  # off black, so that a pattern does not eat the outline on a black background
    if shifted and texture == "striped":
        pixels[((x + y) % (1.4 * period)) < period * 0.6] = dark
    elif shifted and texture == "dotted":
        pixels[((x // (period / 2)) + (y // (period / 2))) % 2 == 0] = dark
    elif texture == "striped":
        pixels[(y % period) < period * 0.45] = dark
    elif texture == "dotted":
        middle = (period - 1 / SCALE) / 2
        pixels[(x % period - middle) ** 2 + (y % period - middle) ** 2 < (period * 0.3) ** 2] = dark
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    coverage = mask.resize((side, side), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32), np.asarray(coverage, dtype=np.float32)[..., None] / 255


def draw(scene: Scene, shifted: bool = False) -> np.ndarray:
    """Draw a scene as (96, 96, 3) uint8; things wander up to 2 pixels from the middle of their cell by
    `scene.jitter`. `shifted`: with textures that no training image has, on a background that gets darker downwards."""
    canvas = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32)
    rng = random.Random(scene.jitter)
    canvas[:] = np.array(BACKGROUNDS[scene.background], dtype=np.float32) + rng.uniform(-4, 4)
    if shifted:
        canvas *= np.linspace(1.0, 0.75, IMAGE_SIZE, dtype=np.float32)[:, None, None]
    cell = IMAGE_SIZE // 3
    for thing in scene.things:
        pixels, coverage = sprite(thing.shape, thing.colour, thing.size, thing.texture, shifted)
        row, column = divmod(POSITIONS.index(thing.position), 3)
        side = pixels.shape[0]
        top = row * cell + (cell - side) // 2 + rng.randint(-2, 2)
        left = column * cell + (cell - side) // 2 + rng.randint(-2, 2)
        window = canvas[top : top + side, left : left + side]
        window[:] = window * (1 - coverage) + pixels * coverage
    return canvas.clip(0, 255).astype(np.uint8)


def png(scene: Scene) -> bytes:
    """Encode a drawn scene as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(draw(scene)).save(buffer, format="PNG")
    return buffer.getvalue()
