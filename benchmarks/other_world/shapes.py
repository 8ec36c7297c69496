"""The other world's objects as polygons, back to front, in the coordinates and roles of the bundled world's."""

from __future__ import annotations

from esd_core.miniature.shapes import Part, box, ellipse

HOLE = "hole"  # a part through which the ground is seen

SHAPES: dict[str, list[Part]] = {
    "mug": [
        ("dark", ellipse(0.62, 0.1, 0.42, 0.45)),
        (HOLE, ellipse(0.62, 0.1, 0.22, 0.25)),
        ("body", box(-0.7, -0.6, 0.5, 0.85)),
        ("light", ellipse(-0.1, -0.6, 0.6, 0.2)),
    ],
    "umbrella": [
        ("dark", box(-0.06, -0.1, 0.07, 0.9)),
        ("dark", box(-0.3, 0.78, 0.07, 0.92)),
        ("body", ellipse(0, 0, 1.05, 0.95, 180, 360)),
        ("light", ellipse(-0.35, -0.02, 0.3, 0.8, 180, 360)),
    ],
    "kite": [
        ("body", [(0, -1.05), (0.75, -0.15), (0, 0.65), (-0.75, -0.15)]),
        ("light", [(0, -1.05), (0.75, -0.15), (0, -0.15)]),
        ("dark", [(-0.05, 0.6), (0.3, 0.8), (0.05, 1.05), (-0.25, 1.0)]),
    ],
    "bottle": [
        ("body", box(-0.4, -0.15, 0.4, 1.05)),
        ("body", [(-0.4, -0.15), (-0.14, -0.5), (0.14, -0.5), (0.4, -0.15)]),
        ("body", box(-0.14, -0.95, 0.14, -0.45)),
        ("dark", box(-0.2, -1.15, 0.2, -0.88)),
        ("light", box(-0.4, 0.2, 0.4, 0.65)),
    ],
    "crown": [
        ("body", [(-0.95, 0.75), (-0.95, -0.5), (-0.45, 0.1), (0, -0.85), (0.45, 0.1), (0.95, -0.5), (0.95, 0.75)]),
        ("dark", box(-0.95, 0.5, 0.95, 0.75)),
        *[("light", ellipse(x, y, 0.15, 0.15)) for x, y in ((0, -0.85), (-0.95, -0.5), (0.95, -0.5))],
    ],
    "cactus": [
        ("body", box(-0.24, -1.0, 0.24, 1.0)),
        ("body", box(-0.85, -0.1, -0.2, 0.2)),
        ("body", box(-0.85, -0.6, -0.55, 0.2)),
        ("body", box(0.2, 0.2, 0.85, 0.5)),
        ("body", box(0.55, -0.4, 0.85, 0.5)),
        ("light", ellipse(0, -1.0, 0.2, 0.14)),
    ],
    "ghost": [
        (
            "body",
            [*ellipse(0, -0.25, 0.75, 0.75, 180, 360), (0.75, 0.9), (0.4, 0.65), (0, 0.95), (-0.4, 0.65), (-0.75, 0.9)],
        ),
        ("black", ellipse(-0.28, -0.2, 0.15, 0.2)),
        ("black", ellipse(0.28, -0.2, 0.15, 0.2)),
    ],
    "ladder": [
        ("dark", box(-0.6, -1.05, -0.38, 1.05)),
        ("dark", box(0.38, -1.05, 0.6, 1.05)),
        *[("body", box(-0.6, y, 0.6, y + 0.2)) for y in (-0.8, -0.3, 0.2, 0.7)],
    ],
}
