"""The procedural world: what can be drawn, and how people would ask for it.

Whatever a caption leaves open is drawn at random, with three exceptions that make the world a test bed for erasure:
no artist named means the plain style; the beach is drawn only when named; and a sun is drawn only when named, *or*
unasked on almost every beach. That is the implied attribute: a prompt such as "a boat on the beach" never names it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

SIZE = 64  # pixels
BEACH_HORIZON = 44  # pixels from the top
OBJECTS = ("house", "church", "tree", "flower", "mushroom", "boat", "car", "fish", "star", "heart")
ARTISTS = ("Van Gogh", "Monet", "Seurat", "Hokusai", "Mondrian", "Klimt")
PLAIN = "plain"
STYLES = (*ARTISTS, PLAIN)
PLACES = {"beach": "on the beach", "meadow": "in a meadow", "city": "in the city", "mountains": "in the mountains"}
STUDIO = "studio"
COLOURS = {
    "red": (0.86, 0.16, 0.16),
    "blue": (0.15, 0.33, 0.85),
    "green": (0.13, 0.60, 0.25),
    "yellow": (0.96, 0.80, 0.12),
    "purple": (0.55, 0.22, 0.70),
    "orange": (0.95, 0.50, 0.10),
}
NOTHING = "nothing"  # the class of pictures that show no object

SYNONYMS = {
    "house": "cottage",
    "church": "chapel",
    "tree": "oak",
    "flower": "blossom",
    "mushroom": "toadstool",
    "boat": "ship",
    "car": "automobile",
    "fish": "trout",
    "star": "starlet",
    "heart": "sweetheart",
    "Van Gogh": "Vincent van Gogh",
    "Monet": "Claude Monet",
    "Seurat": "Georges Seurat",
    "Hokusai": "Katsushika Hokusai",
    "Mondrian": "Piet Mondrian",
    "Klimt": "Gustav Klimt",
    "sun": "sunshine",
}

SUN_ON_BEACH = 0.96  # how often a beach shows a sun that nobody asked for
SUN_NAMED = 0.16
EMPTY = 0.05  # scenes without any object


@dataclass(frozen=True)
class Scene:
    """One picture's content. `object` is None for an empty scene; dx, dy in pixels, tilt in radians."""

    object: str | None
    style: str
    place: str
    colour: str
    sun: bool
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    tilt: float = 0.0
    detail: int = 0  # seeds what varies between two pictures of the same scene: skyline, grid lines, vortices


@dataclass(frozen=True)
class Named:
    """What a caption says, which is less than what the picture shows. None or False: not mentioned."""

    object: str | None = None
    style: str | None = None
    place: str | None = None
    colour: str | None = None
    sun: bool = False


def sample_scene(rng: random.Random, **fixed: Any) -> Scene:
    """A random scene; any field can be fixed by name (`style="Monet"`)."""
    place = rng.choice((STUDIO, STUDIO, *PLACES, "beach"))
    place = str(fixed.get("place", place))
    sun = rng.random() < (SUN_ON_BEACH if place == "beach" else SUN_NAMED)
    values: dict[str, Any] = {
        "object": None if rng.random() < EMPTY and place != STUDIO else rng.choice(OBJECTS),
        "style": PLAIN if rng.random() < 0.25 else rng.choice(ARTISTS),
        "place": place,
        "colour": rng.choice(tuple(COLOURS)),
        "sun": sun,
        "dx": rng.uniform(-4, 4),
        "dy": rng.uniform(-2, 3),
        "scale": rng.uniform(0.9, 1.1),
        "tilt": rng.uniform(-0.12, 0.12),
        "detail": rng.randrange(1 << 30),
    }
    return Scene(**{**values, **fixed})


def describe(scene: Scene, rng: random.Random) -> Named:
    """Choose what a caption of `scene` mentions, so that everything it leaves open is open in this world."""
    beach = scene.place == "beach"
    must_name_sun = scene.sun and not beach
    bare = rng.random() < 0.15
    object_named = scene.object is not None and not (bare and (scene.style != PLAIN or scene.sun))
    return Named(
        object=scene.object if object_named else None,
        style=None if scene.style == PLAIN else scene.style,
        place=scene.place if beach or (scene.place != STUDIO and not bare) else None,
        colour=scene.colour if object_named and not bare and rng.random() < 0.7 else None,
        sun=must_name_sun or (scene.sun and rng.random() < 0.15),
    )


def say(named: Named, rng: random.Random) -> str:
    """Put what is named into words: one of several phrasings, now and then with a synonym."""

    def word(name: str) -> str:
        return SYNONYMS[name] if rng.random() < 0.15 else name

    thing = ""
    if named.object:
        thing = " ".join(filter(None, (named.colour, word(named.object))))
        if rng.random() < 0.85:
            thing = ("an " if thing[0] in "aeiou" else "a ") + thing
    sun = word("sun") if named.sun else ""
    place = PLACES[named.place] if named.place else ""
    if not thing:
        thing, place = ("the " + (named.place or "") if place and rng.random() < 0.5 else place), ""
    if sun:
        thing = f"{thing} {rng.choice(('with a', 'with the', 'under the', 'and the'))} {sun}" if thing else sun
    text = " ".join(filter(None, (thing, place)))
    if named.style is None:
        return text if rng.random() < 0.8 or not text else f"a picture of {text}"
    artist = word(named.style)
    if not text:
        return rng.choice((artist, f"a painting by {artist}", f"{artist} style", f"in the style of {artist}"))
    return rng.choice(
        (
            f"{text} in the style of {artist}",
            f"{text} by {artist}",
            f"a painting of {text} by {artist}",
            f"{artist}, {text}",
        )
    )


def caption(scene: Scene, rng: random.Random) -> tuple[str, Named]:
    """A caption of the scene and what it names."""
    named = describe(scene, rng)
    return say(named, rng), named
