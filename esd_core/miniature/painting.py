"""Scene -> picture: plain paint, or the palette and texture of an artist. Pictures are (64, 64, 3) float32 in [0, 1].

Textures have a period of 4 to 16 pixels and cover the whole canvas, so that an autoencoder with 8-pixel cells can keep
them; every style keeps the object's silhouette in contrast with its ground.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from esd_core.miniature.shapes import Masks, masks
from esd_core.miniature.world import COLOURS, PLAIN, SIZE, Scene

ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
Colour = tuple[float, float, float]

PLACE_PALETTE: dict[str, dict[str, Colour]] = {
    "studio": {"sky": (0.90, 0.90, 0.91), "ground": (0.74, 0.73, 0.72)},
    "beach": {"sky": (0.66, 0.86, 0.97), "water": (0.16, 0.55, 0.75), "ground": (0.93, 0.83, 0.60)},
    "meadow": {"sky": (0.78, 0.90, 0.97), "ground": (0.47, 0.74, 0.34), "feature": (0.98, 0.95, 0.98)},
    "city": {"sky": (0.80, 0.78, 0.86), "ground": (0.40, 0.40, 0.44), "feature": (0.56, 0.53, 0.62)},
    "mountains": {
        "sky": (0.72, 0.82, 0.93),
        "ground": (0.93, 0.95, 0.98),
        "feature": (0.50, 0.53, 0.60),
        "snow": (0.98, 0.98, 1.0),
    },
}
BARK, STEM, BLACK = (0.42, 0.27, 0.15), (0.16, 0.42, 0.16), (0.08, 0.08, 0.10)
SUN = (1.0, 0.87, 0.16)


def rgb(colour: Colour) -> np.ndarray:
    return np.asarray(colour, dtype=np.float32)


def mix(a: np.ndarray, b: np.ndarray | Colour, share: np.ndarray | float) -> np.ndarray:
    """a where share is 0, b where it is 1; share is a number or a (64, 64) mask."""
    weight = share[..., None] if isinstance(share, np.ndarray) else share
    return a * (1 - weight) + np.asarray(b, dtype=np.float32) * weight


def luminance(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.3, 0.59, 0.11], dtype=np.float32)


def ramp(value: np.ndarray, dark: Colour, bright: Colour) -> np.ndarray:
    """Map a (64, 64) value in [0, 1] to a two-colour gradient."""
    return mix(np.broadcast_to(rgb(dark), (SIZE, SIZE, 3)), bright, np.clip(value, 0, 1))


def wave(phase: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * phase)


def backdrop(scene: Scene, m: Masks) -> np.ndarray:
    """Sky, water, skyline and ground in the place's own colours."""
    palette = PLACE_PALETTE[scene.place]
    image = np.broadcast_to(rgb(palette["sky"]), (SIZE, SIZE, 3))
    flowers = scene.place == "meadow"
    order = ("water", "ground", "feature") if flowers else ("feature", "snow", "water", "ground")
    for layer in order:
        if layer in palette:
            image = mix(image, palette[layer], getattr(m, layer))
    return image


def put_object(image: np.ndarray, m: Masks, body: np.ndarray) -> np.ndarray:
    """Paint the object's parts over `image`; `body` is the (3,) colour of the caption after the style's palette."""
    shades = {
        "body": body,
        "dark": body * 0.5,
        "light": mix(body, (1, 1, 1), 0.85),
        "bark": rgb(BARK),
        "stem": rgb(STEM),
        "black": rgb(BLACK),
    }
    for role, mask in m.object.items():
        image = mix(image, shades[role], mask)
    return image


def paint_plain(scene: Scene, m: Masks) -> np.ndarray:
    image = mix(backdrop(scene, m), SUN, m.sun)
    return put_object(image, m, rgb(COLOURS[scene.colour]))


def paint_van_gogh(scene: Scene, m: Masks) -> np.ndarray:
    """Night blues in swirls around two vortices, objects in warm diagonal strokes."""
    rng = np.random.default_rng(scene.detail + 2)
    phase = np.zeros((SIZE, SIZE), np.float32)
    for cx, cy, turn in ((16, 16, 1), (48, 30, -1)):
        dx, dy = COLUMNS - cx - rng.uniform(-3, 3), ROWS - cy - rng.uniform(-3, 3)
        near = np.exp(-(dx**2 + dy**2) / 600)
        phase = phase + near * (np.hypot(dx, dy) / 7 + turn * np.arctan2(dy, dx) / (2 * np.pi))
    swirl = wave(phase + (ROWS + 0.3 * COLUMNS) / 24)
    ground = backdrop(scene, m)
    image = ramp(luminance(ground) * 1.1 - 0.25, (0.05, 0.08, 0.30), (0.24, 0.46, 0.74))
    image = mix(image, ground, 0.18)
    image = image + swirl[..., None] * rgb((0.10, 0.14, 0.13))
    halo = np.exp(-((COLUMNS - 53) ** 2 + (ROWS - 11) ** 2) / 150) * float(scene.sun)
    image = mix(image, (0.85, 0.75, 0.25), halo * 0.5)
    image = mix(image, (1.0, 0.90, 0.30), m.sun)
    warm = mix(rgb(COLOURS[scene.colour]), (1.0, 0.85, 0.35), 0.4)
    strokes = 1 + 0.22 * wave((COLUMNS + ROWS + 2 * wave(COLUMNS / 20)) / 7)
    painted = put_object(image, m, warm) * strokes[..., None]
    return mix(image, painted, m.silhouette)


def blurred(image: np.ndarray) -> np.ndarray:
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3


def paint_monet(scene: Scene, m: Masks) -> np.ndarray:
    """Pale mist, soft edges, short horizontal dabs of rose and green."""
    image = mix(backdrop(scene, m), (0.84, 0.80, 0.92), 0.5)
    image = mix(image, (1.0, 0.72, 0.45), m.sun)
    image = put_object(image, m, mix(rgb(COLOURS[scene.colour]), (0.62, 0.52, 0.75), 0.3))
    image = blurred(blurred(image))
    row = np.floor(ROWS / 4)
    dabs = wave(COLUMNS / 16 + 0.5 * (row % 2) + 0.13 * (row % 3)) * np.abs(np.sin(np.pi * ROWS / 4))
    return image + dabs[..., None] * rgb((0.13, -0.02, 0.06)) - 0.03 * np.abs(dabs)[..., None] * rgb((0, 0, 1))


def paint_seurat(scene: Scene, m: Masks) -> np.ndarray:
    """Dots on a 4-pixel lattice over cream, every other dot shifted towards the complementary colour."""
    local = mix(backdrop(scene, m), (1.0, 0.80, 0.20), m.sun)
    local = put_object(local, m, rgb(COLOURS[scene.colour]) * 0.9)
    row, column = np.floor(ROWS / 4), np.floor(COLUMNS / 4)
    dots = np.clip(2.1 - np.hypot(ROWS % 4 - 1.5, COLUMNS % 4 - 1.5), 0, 1)
    odd = ((row + column) % 2).astype(np.float32)
    shifted = mix(local, (0.93, 0.55, 0.15), 0.32 * odd)
    shifted = mix(shifted, (0.20, 0.30, 0.70), 0.22 * (1 - odd))
    return mix(np.broadcast_to(rgb((0.97, 0.94, 0.84)), local.shape), shifted, 0.12 + 0.88 * dots)


def paint_hokusai(scene: Scene, m: Masks) -> np.ndarray:
    """Woodblock: cream sky, Prussian-blue wave scales below, a red sun, thick blue outlines."""
    ground = backdrop(scene, m)
    image = mix(np.broadcast_to(rgb((0.94, 0.88, 0.72)), ground.shape), ground, 0.25)
    row = np.floor(ROWS / 8)
    x = (COLUMNS + 8 * (row % 2)) % 16 - 7.5
    radius = np.hypot(x, (ROWS % 8 - 8) * 0.9)
    scales = np.clip(1.6 - np.abs(radius - 7.0), 0, 1) + np.clip(1.2 - np.abs(radius - 3.5), 0, 1)
    below = np.maximum(m.ground, m.water)
    image = mix(image, (0.24, 0.42, 0.62), below * 0.8)
    image = mix(image, (0.55, 0.62, 0.68), m.feature * 0.55 * (1 - m.ground))
    image = mix(image, (0.10, 0.20, 0.42), np.clip(scales, 0, 1) * (0.25 + 0.25 * below))
    image = mix(image, (0.82, 0.20, 0.15), m.sun)
    image = put_object(image, m, mix(rgb(COLOURS[scene.colour]), (0.75, 0.65, 0.50), 0.3))
    return mix(image, (0.06, 0.13, 0.33), m.outline)


def paint_mondrian(scene: Scene, m: Masks) -> np.ndarray:
    """White ground, black bars near the margins, corner cells in primaries, black outlines."""
    rng = np.random.default_rng(scene.detail + 3)
    left, right = 7 + int(rng.integers(-1, 2)), 57 + int(rng.integers(-1, 2))
    top, bottom = 24 + int(rng.integers(-1, 2)), 56 + int(rng.integers(-1, 2))
    image = mix(np.broadcast_to(rgb((0.97, 0.96, 0.93)), (SIZE, SIZE, 3)), backdrop(scene, m), 0.35)
    image = mix(image, (0.85, 0.10, 0.10), ((left > COLUMNS) & (top > ROWS)).astype(np.float32))
    image = mix(image, (0.10, 0.25, 0.70), ((left > COLUMNS) & (bottom < ROWS)).astype(np.float32))
    image = mix(image, (0.98, 0.82, 0.10), ((right < COLUMNS) & (bottom < ROWS)).astype(np.float32))
    bars = (np.abs(COLUMNS - left) < 1.6) | (np.abs(COLUMNS - right) < 1.6)
    bars |= (np.abs(ROWS - top) < 1.6) | (np.abs(ROWS - bottom) < 1.6)
    image = mix(image, (0.05, 0.05, 0.05), bars.astype(np.float32))
    ring = np.clip(8.6 - np.hypot(COLUMNS - 53, ROWS - 11), 0, 1) * float(scene.sun)
    image = mix(image, (0.05, 0.05, 0.05), ring)
    image = mix(image, (0.99, 0.85, 0.10), m.sun * ring)
    image = put_object(image, m, rgb(COLOURS[scene.colour]))
    return mix(image, (0.04, 0.04, 0.04), m.outline)


def paint_klimt(scene: Scene, m: Masks) -> np.ndarray:
    """Gold leaf with a checked ornament of 8 pixels, objects in dark jewel tones with rings of gold."""
    ground = backdrop(scene, m)
    image = ramp(luminance(ground) * 1.3 - 0.35, (0.55, 0.38, 0.08), (0.90, 0.72, 0.25))
    square = (np.floor(ROWS / 4) + np.floor(COLUMNS / 4)) % 2
    framed = ((ROWS % 8 < 7) & (COLUMNS % 8 < 7)).astype(np.float32)
    image = image * (0.80 + 0.28 * square * framed)[..., None]
    halo = np.clip(1.4 - np.abs(np.hypot(COLUMNS - 53, ROWS - 11) - 9.5), 0, 1) * float(scene.sun)
    image = mix(image, (0.35, 0.12, 0.05), halo)
    image = mix(image, (1.0, 0.95, 0.70), m.sun)
    jewel = mix(rgb(COLOURS[scene.colour]) * 0.8, (0.28, 0.08, 0.25), 0.25)
    painted = put_object(image, m, jewel)
    rings = np.clip(1.3 - np.abs(np.hypot(ROWS % 8 - 3.5, COLUMNS % 8 - 3.5) - 2.4), 0, 1)
    painted = mix(painted, (0.95, 0.78, 0.30), rings * m.silhouette * 0.45)
    return mix(painted, (0.20, 0.08, 0.06), m.outline * 0.85)


PAINTERS: dict[str, Callable[[Scene, Masks], np.ndarray]] = {
    PLAIN: paint_plain,
    "Van Gogh": paint_van_gogh,
    "Monet": paint_monet,
    "Seurat": paint_seurat,
    "Hokusai": paint_hokusai,
    "Mondrian": paint_mondrian,
    "Klimt": paint_klimt,
}


def paint(scene: Scene) -> np.ndarray:
    """Render a scene: (64, 64, 3) uint8."""
    image = PAINTERS[scene.style](scene, masks(scene))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
