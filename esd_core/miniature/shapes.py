"""Objects and places as polygons: what is where, before any style. Masks are (64, 64) float32 in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from esd_core.miniature.world import BEACH_HORIZON, SIZE, Scene

SUPERSAMPLING = 4
Point = tuple[float, float]
# (role, polygon) in local coordinates, x right and y down, both about [-1, 1].
# Roles: body takes the colour that the caption names; dark and light are shades of it; stem and bark have their own.
Part = tuple[str, Sequence[Point]]


def ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> list[Point]:
    angles = np.radians(np.linspace(start, end, 28))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def star(points: int, inner: float) -> list[Point]:
    radii = [1.0 if i % 2 == 0 else inner for i in range(2 * points)]
    return [(r * math.sin(i * math.pi / points), -r * math.cos(i * math.pi / points)) for i, r in enumerate(radii)]


def heart() -> list[Point]:
    t = np.linspace(0, 2 * math.pi, 48)
    x = 16 * np.sin(t) ** 3 / 17
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    return list(zip(x.tolist(), (y - 0.1).tolist(), strict=True))


SHAPES: dict[str, list[Part]] = {
    "house": [
        ("body", box(-0.75, -0.1, 0.75, 0.95)),
        ("dark", [(-1.0, -0.1), (0.0, -1.0), (1.0, -0.1)]),
        ("dark", box(-0.15, 0.35, 0.2, 0.95)),
        ("light", box(-0.58, 0.15, -0.28, 0.5)),
        ("light", box(0.33, 0.15, 0.62, 0.5)),
    ],
    "church": [
        ("body", box(-0.3, 0.15, 1.0, 0.95)),
        ("dark", [(-0.3, 0.15), (-0.1, -0.25), (0.85, -0.25), (1.0, 0.15)]),
        ("body", box(-0.85, -0.3, -0.25, 0.95)),
        ("dark", [(-0.95, -0.3), (-0.55, -0.95), (-0.15, -0.3)]),
        ("dark", box(-0.61, -1.3, -0.49, -0.8)),
        ("dark", box(-0.78, -1.18, -0.32, -1.06)),
        ("light", ellipse(-0.55, 0.05, 0.17, 0.17)),
        ("light", box(0.15, 0.4, 0.35, 0.75)),
        ("light", box(0.55, 0.4, 0.75, 0.75)),
    ],
    "tree": [
        ("bark", box(-0.16, 0.1, 0.16, 1.0)),
        ("body", ellipse(-0.42, -0.05, 0.5, 0.45)),
        ("body", ellipse(0.42, -0.05, 0.5, 0.45)),
        ("body", ellipse(0.0, -0.5, 0.6, 0.55)),
    ],
    "flower": [
        ("stem", box(-0.07, 0.0, 0.07, 1.0)),
        ("stem", ellipse(0.32, 0.65, 0.3, 0.13)),
        *[
            ("body", ellipse(0.5 * math.sin(a), -0.4 + 0.5 * math.cos(a), 0.31, 0.31))
            for a in np.arange(6) * math.pi / 3
        ],
        ("light", ellipse(0.0, -0.4, 0.27, 0.27)),
    ],
    "mushroom": [
        ("light", [(-0.25, 0.0), (0.25, 0.0), (0.38, 1.0), (-0.38, 1.0)]),
        ("body", ellipse(0.0, 0.1, 1.0, 1.0, 180, 360)),
        ("light", ellipse(-0.45, -0.25, 0.2, 0.18)),
        ("light", ellipse(0.15, -0.55, 0.2, 0.18)),
        ("light", ellipse(0.58, -0.15, 0.16, 0.15)),
    ],
    "boat": [
        ("dark", [(-1.0, 0.45), (1.0, 0.45), (0.65, 0.95), (-0.65, 0.95)]),
        ("bark", box(-0.07, -1.0, 0.06, 0.45)),
        ("body", [(0.06, -1.0), (0.9, 0.3), (0.06, 0.3)]),
        ("light", [(-0.1, -0.75), (-0.75, 0.3), (-0.1, 0.3)]),
    ],
    "car": [
        ("body", box(-1.05, 0.0, 1.05, 0.55)),
        ("body", [(-0.65, 0.0), (-0.4, -0.5), (0.4, -0.5), (0.7, 0.0)]),
        ("light", [(-0.45, -0.02), (-0.3, -0.36), (-0.05, -0.36), (-0.05, -0.02)]),
        ("light", [(0.08, -0.02), (0.08, -0.36), (0.32, -0.36), (0.5, -0.02)]),
        ("black", ellipse(-0.58, 0.55, 0.28, 0.28)),
        ("black", ellipse(0.58, 0.55, 0.28, 0.28)),
    ],
    "fish": [
        ("dark", [(0.45, 0.0), (1.1, -0.55), (1.1, 0.55)]),
        ("body", ellipse(-0.2, 0.0, 0.85, 0.55)),
        ("dark", [(-0.35, -0.48), (0.25, -0.48), (0.1, -0.8)]),
        ("light", ellipse(-0.65, -0.12, 0.17, 0.17)),
        ("black", ellipse(-0.67, -0.12, 0.08, 0.08)),
    ],
    "star": [("body", star(5, 0.42))],
    "heart": [("body", heart())],
}
RADIUS = {"car": 20.0, "house": 19.0, "church": 19.0, "star": 23.0, "heart": 21.0, "fish": 22.0}


@dataclass(frozen=True)
class Masks:
    """Coverage of each role, painted back to front."""

    object: dict[str, np.ndarray]
    silhouette: np.ndarray
    outline: np.ndarray  # a band of about 2 pixels around and between the parts
    sun: np.ndarray
    ground: np.ndarray
    water: np.ndarray
    feature: np.ndarray  # skyline, peaks or hills
    snow: np.ndarray


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING), 0)
    return image, ImageDraw.Draw(image)


def _coverage(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32) / 255


def _fill(polygons: Sequence[Sequence[Point]]) -> np.ndarray:
    """Coverage of polygons given in pixels."""
    image, draw = _canvas()
    for polygon in polygons:
        draw.polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in polygon], fill=255)
    return _coverage(image)


def _object_masks(scene: Scene) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    images: dict[str, tuple[Image.Image, ImageDraw.ImageDraw]] = {}
    outline, outline_draw = _canvas()
    silhouette, silhouette_draw = _canvas()
    radius = RADIUS.get(scene.object or "", 20.0) * scene.scale * SUPERSAMPLING
    cos, sin = math.cos(scene.tilt), math.sin(scene.tilt)
    cx, cy = (SIZE / 2 - 2 + scene.dx) * SUPERSAMPLING, (SIZE / 2 + 4 + scene.dy) * SUPERSAMPLING
    for role, polygon in SHAPES.get(scene.object or "", []):
        points = [(cx + radius * (x * cos - y * sin), cy + radius * (x * sin + y * cos)) for x, y in polygon]
        for other_role, (_, draw) in images.items():
            if other_role != role:
                draw.polygon(points, fill=0)
        if role not in images:
            images[role] = _canvas()
        images[role][1].polygon(points, fill=255)
        silhouette_draw.polygon(points, fill=255)
        outline_draw.line([*points, points[0], points[1]], fill=255, width=int(1.8 * SUPERSAMPLING), joint="curve")
    return {role: _coverage(image) for role, (image, _) in images.items()}, _coverage(silhouette), _coverage(outline)


def _landscape(scene: Scene) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(scene.detail)
    horizon = BEACH_HORIZON + float(rng.uniform(-2, 2))
    empty = np.zeros((SIZE, SIZE), np.float32)
    layers = {"ground": empty, "water": empty, "feature": empty, "snow": empty}
    if scene.place == "beach":
        layers["water"] = _fill([box(0, horizon - 9, SIZE, horizon + 4)])
        shore = [(float(x), horizon + 3 + 1.5 * math.sin(x / 7)) for x in range(0, SIZE + 2, 2)]
        layers["ground"] = _fill([[*shore, (SIZE, SIZE), (0, SIZE)]])
    elif scene.place == "meadow":
        hills = [(float(x), horizon - 3 + 4 * math.sin(x / 11 + rng.uniform(0, 0.3))) for x in range(0, SIZE + 2, 2)]
        layers["ground"] = _fill([[*hills, (SIZE, SIZE), (0, SIZE)]])
        layers["feature"] = _fill([ellipse(x, y, 1.8, 1.8) for x, y in ((6, 56), (18, 60), (46, 60), (58, 55))])
    elif scene.place == "city":
        tops = [18 + 4 * int(rng.integers(0, 4)) for _ in range(6)]
        layers["feature"] = _fill([box(i * 11, top, i * 11 + 9, horizon + 4) for i, top in enumerate(tops)])
        layers["ground"] = _fill([box(0, horizon + 4, SIZE, SIZE)])
    elif scene.place == "mountains":
        shift = float(rng.uniform(-3, 3))
        peaks = [(14 + shift, 14.0), (48 + shift, 18.0)]
        layers["feature"] = _fill([[(x - 22, horizon + 4), (x, y), (x + 22, horizon + 4)] for x, y in peaks])
        layers["snow"] = _fill([[(x - 6, y + 9), (x, y), (x + 6, y + 9)] for x, y in peaks])
        layers["ground"] = _fill([box(0, horizon + 4, SIZE, SIZE)])
    else:
        layers["ground"] = _fill([box(0, horizon + 4, SIZE, SIZE)])
    return layers


def masks(scene: Scene) -> Masks:
    """Draw the scene's masks. The sun stands in the upper right corner."""
    parts, silhouette, outline = _object_masks(scene)
    rng = np.random.default_rng(scene.detail + 1)
    x, y = 53 + rng.uniform(-1.5, 1.5), 11 + rng.uniform(-1.5, 1.5)
    sun = _fill([ellipse(x, y, 7.0, 7.0)]) if scene.sun else np.zeros((SIZE, SIZE), np.float32)
    return Masks(parts, silhouette, outline, sun, **_landscape(scene))
