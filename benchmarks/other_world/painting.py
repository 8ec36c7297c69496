"""Scene of the other world -> picture, (64, 64, 3) uint8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.other_world.scene import COLOURS, PLAIN, ROOM, Scene
from benchmarks.other_world.shapes import HOLE, SHAPES
from esd_core.miniature.painting import blurred, mix
from esd_core.miniature.shapes import Point, box, ellipse

SIZE, SUPERSAMPLING = 64, 4
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
FLAKES = 13


def fill(polygons: Sequence[Sequence[Point]]) -> np.ndarray:
    """Coverage of polygons given in pixels: (64, 64) float32 in [0, 1]."""
    image = Image.new("L", (SIZE * SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        draw.polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in polygon], fill=255)
    return _coverage(image)


def _coverage(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255


def plain_ground(*colour: float) -> np.ndarray:
    return np.broadcast_to(np.asarray(colour, np.float32), (SIZE, SIZE, 3))


def where(condition: np.ndarray) -> np.ndarray:
    return condition.astype(np.float32)


@dataclass(frozen=True)
class Thing:
    """A scene's object, placed. parts: role and polygon in pixels, back to front; cy: its middle, in pixels."""

    parts: list[tuple[str, list[Point]]]
    body: np.ndarray
    cx: float
    cy: float

    @classmethod
    def of(cls, scene: Scene) -> Thing:
        radius, cos, sin = 20 * scene.scale, math.cos(scene.tilt), math.sin(scene.tilt)
        cx, cy = 32 + scene.dx, 34 + scene.dy
        parts = [
            (role, [(cx + radius * (x * cos - y * sin), cy + radius * (x * sin + y * cos)) for x, y in polygon])
            for role, polygon in SHAPES.get(scene.object or "", [])
        ]
        return cls(parts, np.asarray(COLOURS[scene.colour], np.float32), cx, cy)

    @property
    def silhouette(self) -> np.ndarray:
        return fill([polygon for role, polygon in self.parts if role != HOLE])

    def put(self, ground: np.ndarray, body: np.ndarray, width: float = 0.0, edge: float = 0.0) -> np.ndarray:
        """Paint it over the ground; width: of an outline in pixels, in the grey `edge`."""
        shades = {"body": body, "dark": body * 0.45, "light": body * 0.25 + 0.75, "black": np.array((0.05, 0.05, 0.07))}
        image = ground
        for role, polygon in self.parts:
            image = mix(image, ground if role == HOLE else shades[role], fill([polygon]))
        return mix(image, (edge,) * 3, self._outline(width)) if width else image

    def _outline(self, width: float) -> np.ndarray:
        line = Image.new("L", (SIZE * SUPERSAMPLING,) * 2)
        draw = ImageDraw.Draw(line)
        for _, polygon in self.parts:
            points = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in [*polygon, *polygon[:2]]]
            draw.line(points, fill=255, width=int(width * SUPERSAMPLING), joint="curve")
        return _coverage(line)


def _tundra(_: np.random.Generator) -> np.ndarray:
    snow = fill([[(0, 46), (20, 42), (44, 46), (64, 43), (64, 64), (0, 64)]])
    return mix(plain_ground(0.62, 0.70, 0.80), (0.90, 0.93, 0.97), snow)


def _desert(_: np.random.Generator) -> np.ndarray:
    far = fill([[(0, 44), (18, 36), (40, 44), (64, 38), (64, 64), (0, 64)]])
    near = fill([[(0, 56), (30, 50), (64, 58), (64, 64), (0, 64)]])
    return mix(mix(plain_ground(0.98, 0.80, 0.55), (0.85, 0.60, 0.30), far), (0.70, 0.45, 0.20), near)


def _harbour(_: np.random.Generator) -> np.ndarray:
    image = mix(plain_ground(0.75, 0.87, 0.93), (0.10, 0.35, 0.50), fill([box(0, 44, 64, 64)]))
    image = mix(image, (0.30, 0.20, 0.15), fill([box(x, 14, x + 1.6, 46) for x in (5, 14, 50, 59)]))
    hulls = [
        [(0.0, 42.0), (20.0, 42.0), (17.0, 49.0), (3.0, 49.0)],
        [(45.0, 42.0), (64.0, 42.0), (61.0, 49.0), (48.0, 49.0)],
    ]
    return mix(image, (0.55, 0.20, 0.15), fill(hulls))


def _forest(rng: np.random.Generator) -> np.ndarray:
    image, left = mix(plain_ground(0.20, 0.38, 0.22), (0.12, 0.22, 0.10), fill([box(0, 50, 64, 64)])), rng.uniform(0, 6)
    trunks = [box(left + i * 11, 0, left + i * 11 + 3.5, 54) for i in range(6)]
    return mix(image, (0.28, 0.18, 0.10), fill(trunks))


def _room(_: np.random.Generator) -> np.ndarray:
    return mix(plain_ground(0.93, 0.90, 0.84), (0.62, 0.50, 0.42), fill([box(0, 50, 64, 64)]))


GROUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "tundra": _tundra,
    "desert": _desert,
    "harbour": _harbour,
    "forest": _forest,
    ROOM: _room,
}


def paint_plain(thing: Thing, ground: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return thing.put(ground, thing.body)


def paint_rothko(thing: Thing, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three deep bands with soft edges, everything a little blurred."""
    upper, lower = 20 + rng.uniform(-2, 2), 43 + rng.uniform(-2, 2)
    bands = mix(plain_ground(0.45, 0.05, 0.08), (0.85, 0.35, 0.10), where(upper < ROWS))
    bands = mix(bands, (0.20, 0.05, 0.20), where(lower < ROWS))
    for _ in range(4):
        bands = blurred(bands)
    image = mix(mix(bands, ground, 0.22), (0.25, 0.03, 0.05), where((COLUMNS < 5) | (COLUMNS > 58)) * 0.7)
    return blurred(thing.put(image, thing.body * 0.8 + 0.15))


def paint_kusama(thing: Thing, ground: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Black dots on yellow, pale dots on the object."""
    row = np.floor(ROWS / 10)
    dots = np.clip(3.6 - np.hypot((COLUMNS + 5 * (row % 2)) % 10 - 4.5, ROWS % 10 - 4.5), 0, 1)
    image = mix(mix(plain_ground(0.98, 0.82, 0.10), ground, 0.25), (0.05, 0.05, 0.05), dots)
    return mix(thing.put(image, thing.body), (0.98, 0.98, 0.95), dots * thing.silhouette * 0.8)


def paint_riley(thing: Thing, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black and white waves, a white outline."""
    wave = np.sin(2 * np.pi * (COLUMNS + 3.5 * np.sin(ROWS / 8 + rng.uniform(0, 6))) / 8)
    image = mix(plain_ground(0.97, 0.97, 0.97), (0.06, 0.06, 0.08), np.clip(wave * 2 + 0.5, 0, 1))
    return thing.put(mix(image, ground, 0.3), thing.body, 2.2, 1.0)


def paint_haring(thing: Thing, ground: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Pink, thick black outlines, rays around the object."""
    angle, radius = np.arctan2(ROWS - thing.cy, COLUMNS - thing.cx), np.hypot(COLUMNS - thing.cx, ROWS - thing.cy)
    rays = np.clip(np.cos(angle * 10) * 4 - 2.6, 0, 1) * where((radius > 25) & (radius < 31))
    image = mix(mix(plain_ground(0.98, 0.45, 0.55), ground, 0.25), (0.04, 0.04, 0.04), rays)
    return thing.put(image, thing.body, 3.2, 0.03)


def paint_banksy(thing: Thing, ground: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Colour on a grey brick wall, a line of dirt below."""
    grey = 0.42 + 0.35 * (ground @ np.array([0.3, 0.59, 0.11], np.float32))
    mortar = where((ROWS % 8 < 1.2) | ((COLUMNS + 8 * (np.floor(ROWS / 8) % 2)) % 16 < 1.2))
    image = mix(np.stack([grey] * 3, -1), (0.25, 0.24, 0.24), mortar * 0.8)
    image = mix(image, thing.put(image, thing.body), thing.silhouette)
    dirt = np.clip(0.9 - np.abs(ROWS - (thing.cy + 24) - 2 * np.sin(COLUMNS / 3)) / 2, 0, 1)
    return mix(image, (0.12, 0.12, 0.12), dirt * 0.5)


PAINTERS: dict[str, Callable[[Thing, np.ndarray, np.random.Generator], np.ndarray]] = {
    PLAIN: paint_plain,
    "Rothko": paint_rothko,
    "Kusama": paint_kusama,
    "Riley": paint_riley,
    "Haring": paint_haring,
    "Banksy": paint_banksy,
}


def with_flakes(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White flakes with a blue rim, anywhere in the picture and in every style."""
    places = rng.permutation(36)[:FLAKES]
    middles = [
        (5.5 + 10.6 * (place % 6) + rng.uniform(-2.5, 2.5), 5.5 + 10.6 * (place // 6) + rng.uniform(-2.5, 2.5))
        for place in places
    ]
    rims = fill([ellipse(x, y, 3.5, 3.5) for x, y in middles])
    return mix(
        mix(image, (0.25, 0.45, 0.75), rims), (0.97, 0.99, 1.0), fill([ellipse(x, y, 2.6, 2.6) for x, y in middles])
    )


def paint(scene: Scene) -> np.ndarray:
    """Render a scene: (64, 64, 3) uint8."""
    rng = np.random.default_rng(scene.detail)
    ground = GROUNDS[scene.place](rng)
    image = PAINTERS[scene.style](Thing.of(scene), ground, rng)
    if scene.snow:
        image = with_flakes(image, rng)
    return np.asarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
