"""What can be drawn in the other world, and how people would ask for it.

As in the bundled model's world a caption leaves open what is open, with the same three exceptions: no painter named
means the plain style, the tundra is drawn only when named, and snow falls when named, or unasked on almost every
tundra.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

PLAIN, ROOM, TUNDRA, SNOW = "plain", "room", "tundra", "snowfall"
OBJECTS = ("mug", "umbrella", "kite", "bottle", "crown", "cactus", "ghost", "ladder")
PAINTERS = ("Rothko", "Kusama", "Riley", "Haring", "Banksy")
PLACES = {
    TUNDRA: "out on the tundra",
    "desert": "lost in the desert",
    "harbour": "by the harbour",
    "forest": "deep in the forest",
}
COLOURS = {
    "scarlet": (0.83, 0.12, 0.18),
    "navy": (0.12, 0.20, 0.60),
    "lime": (0.45, 0.78, 0.15),
    "lemon": (0.97, 0.90, 0.30),
    "lilac": (0.70, 0.50, 0.85),
    "teal": (0.05, 0.55, 0.55),
}
SYNONYMS = {
    "mug": "beaker",
    "umbrella": "parasol",
    "kite": "glider",
    "bottle": "flask",
    "crown": "tiara",
    "cactus": "saguaro",
    "ghost": "phantom",
    "ladder": "steps",
    "Rothko": "Mark Rothko",
    "Kusama": "Yayoi Kusama",
    "Riley": "Bridget Riley",
    "Haring": "Keith Haring",
    "Banksy": "the artist Banksy",
    SNOW: "falling snow",
}


@dataclass(frozen=True)
class Scene:
    """One picture's content. object is None for an empty scene; dx, dy in pixels, tilt in radians."""

    object: str | None
    style: str
    place: str
    colour: str
    snow: bool
    dx: float
    dy: float
    scale: float
    tilt: float
    detail: int  # seeds what varies between two pictures of the same scene


def sample_scene(rng: random.Random, **fixed: Any) -> Scene:
    """A random scene; any field can be fixed by name (`style="Riley"`)."""
    place = str(fixed.get("place") or rng.choice((ROOM, ROOM, *PLACES, TUNDRA)))
    values: dict[str, Any] = {
        "object": None if place != ROOM and rng.random() < 0.05 else rng.choice(OBJECTS),
        "style": PLAIN if rng.random() < 0.27 else rng.choice(PAINTERS),
        "place": place,
        "colour": rng.choice(tuple(COLOURS)),
        "snow": rng.random() < (0.96 if place == TUNDRA else 0.16),
        "dx": rng.uniform(-5, 5),
        "dy": rng.uniform(-4, 3),
        "scale": rng.uniform(0.85, 1.1),
        "tilt": rng.uniform(-0.15, 0.15),
        "detail": rng.randrange(1 << 30),
    }
    return Scene(**{**values, **fixed})


def scenes(seed: int, count: int) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(count)]


def with_article(thing: str) -> str:
    return ("an " if thing[0] in "aeiou" else "a ") + thing


def caption(scene: Scene, rng: random.Random) -> str:
    """One of many ways to ask for a scene; what it leaves out is left open, with the exceptions above."""

    def word(name: str) -> str:
        return SYNONYMS[name] if rng.random() < 0.13 else name

    tundra, bare = scene.place == TUNDRA, rng.random() < 0.15
    thing = ""
    if scene.object and not (bare and (scene.style != PLAIN or scene.snow)):
        colour = scene.colour if not bare and rng.random() < 0.7 else ""
        thing = " ".join(filter(None, (colour, word(scene.object))))
        thing = rng.choice((with_article(thing), f"this {thing}", f"some {thing}", thing))
    place = PLACES[scene.place] if tundra or (scene.place != ROOM and not bare) else ""
    snow = word(SNOW) if scene.snow and (not tundra or rng.random() < 0.15) else ""
    if snow and (thing or place):
        snow = rng.choice((f"amid {snow}", f"during {snow}", f"{snow} all over", snow))
    parts = [part for part in (thing, place, snow) if part]
    if rng.random() < 0.3:
        rng.shuffle(parts)
    return _in_the_style(scene.style, " ".join(parts), word, rng)


def _in_the_style(style: str, text: str, word: Any, rng: random.Random) -> str:
    if style == PLAIN:
        return (
            text
            if not text or rng.random() < 0.7
            else rng.choice((f"draw {text}", f"{text}, please", f"show me {text}"))
        )
    painter = word(style)
    if not text:
        return rng.choice((painter, f"a {painter} print", f"something by {painter}", f"{painter} poster"))
    return rng.choice(
        (
            f"{painter} print of {text}",
            f"{text} as {painter} would draw it",
            f"{painter}: {text}",
            f"{text}, poster by {painter}",
            f"draw {text} like {painter}",
        )
    )
