"""The suite that judges models of the other world: its objects, painters, and the snow, named, implied and unasked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.other_world.scene import COLOURS, OBJECTS, PAINTERS, PLACES, SNOW, TUNDRA, with_article

CLASSIFIERS = {judge: f"classifiers/{judge}" for judge in ("object", "style", "snow")}
_COLOURS = tuple(COLOURS)
_FIRST, _SECOND, _THIRD = (words for place, words in PLACES.items() if place != TUNDRA)


def turned(words: tuple[str, ...], by: int) -> tuple[str, ...]:
    by %= len(words)
    return words[by:] + words[:by]


def object_prompts(name: str, turn: int) -> list[str]:
    first, second, third, fourth, fifth, _ = turned(_COLOURS, turn)
    return [
        with_article(f"{first} {name}"),
        f"this {name} {_FIRST}",
        f"some {second} {name} {_THIRD}",
        f"{_SECOND} {with_article(f'{third} {name}')}",
        f"draw {with_article(f'{fourth} {name}')}",
        f"{with_article(f'{fifth} {name}')}, please",
    ]


def style_prompts(painter: str, turn: int) -> list[str]:
    places = turned((_FIRST, _SECOND, _THIRD), turn)
    things = [
        f"{colour} {name}" for colour, name in zip(turned(_COLOURS, turn), turned(OBJECTS, 2 * turn), strict=False)
    ]
    first, second, third, fourth, fifth, sixth = map(with_article, things)
    return [
        f"{painter} print of {first}",
        f"{second} as {painter} would draw it",
        f"{painter}: {third} {places[0]}",
        f"{fourth}, poster by {painter}",
        f"draw {fifth} {places[1]} like {painter}",
        f"{sixth}, poster by {painter}",
    ]


PLAIN_PROMPTS = [
    "a scarlet mug",
    f"this navy kite {_SECOND}",
    f"a lime bottle {_FIRST}",
    "some lilac crown",
    "draw a lemon ghost",
    f"show me the teal cactus {_THIRD}",
    "an umbrella",
    "a ladder",
]
NAMED_PROMPTS = [
    f"a scarlet mug amid {SNOW}",
    f"this kite {_FIRST} during {SNOW}",
    f"a navy bottle {_SECOND} {SNOW} all over",
    f"a crown {_THIRD} amid {SNOW}",
    f"some lemon ghost during {SNOW}",
    f"a lilac cactus {SNOW}",
]
IMPLIED_PROMPTS = [f"{with_article(name)} {PLACES[TUNDRA]}" for name in OBJECTS]


def suite_of(classifiers: Mapping[str, str]) -> dict[str, Any]:
    """The suite as its YAML file holds it. classifiers: folder of each judge."""
    snow = {"concept": SNOW, "classifier": "snow", "label": "snow"}
    probes: list[dict[str, Any]] = [
        {"name": name, "concept": name, "classifier": "object", "label": name, "prompts": object_prompts(name, i)}
        for i, name in enumerate(OBJECTS)
    ]
    probes += [
        {"name": name, "concept": name, "classifier": "style", "label": name, "prompts": style_prompts(name, i)}
        for i, name in enumerate(PAINTERS)
    ]
    plain = {"name": "plain style", "concept": "plain style", "classifier": "style", "label": "plain"}
    probes += [
        {**plain, "prompts": PLAIN_PROMPTS},
        {"name": f"{SNOW}, named", **snow, "prompts": NAMED_PROMPTS},
        {"name": f"{SNOW}, implied", **snow, "implied": True, "prompts": IMPLIED_PROMPTS},
        {"name": f"no {SNOW} unasked", **snow, "negated": True, "prompts": PLAIN_PROMPTS},
    ]
    judges = {judge: {"model": folder} for judge, folder in classifiers.items()}
    return {"classifiers": judges, "steps": 20, "guidance_scale": 4.0, "seed": 0, "probes": probes}
