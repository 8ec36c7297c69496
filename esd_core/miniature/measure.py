"""The figures of the miniature's model card, over generated images:

    python -m esd_core.miniature.measure --base FOLDER --out DIR [--images 200]

Prompts are the world's own captions with chosen things named. Each figure is the share of images, over at least
`--images` of them, in which the classifier sees what the prompt asked for.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import resolve_base
from esd_core.evaluation.classifiers import load_image_classifier
from esd_core.evaluation.classifiers.image_classifier import ImageClassifier
from esd_core.evaluation.pictures import write_table
from esd_core.generation import generate
from esd_core.miniature.judges import LABELS, SUN, held_out
from esd_core.miniature.world import ARTISTS, COLOURS, OBJECTS, PLACES, PLAIN, STYLES, Named, say

CLASSIFIERS = Path(__file__).parent / "classifiers"
AWAY_FROM_BEACH = (None, None, *(place for place in PLACES if place != "beach"))
HELD_OUT_SEED, HELD_OUT_IMAGES = 20_001, 2_000
FIRST_SEED = 5_000_000
BATCH_SIZE = 64
Figure = dict[str, float]


@dataclass(frozen=True)
class Drawn:
    """Images of the captions `named`, and each judge's answers by name: answers[judge] (N,) str."""

    named: list[Named]
    images: np.ndarray
    answers: dict[str, np.ndarray]

    def rate(self, judge: str, expected: Sequence[str], rows: np.ndarray | None = None) -> float:
        right = self.answers[judge] == np.array(expected)
        return float((right if rows is None else right[rows]).mean())


@dataclass(frozen=True)
class Studio:
    """A base model with its judges."""

    pipeline: Any
    judges: dict[str, ImageClassifier]
    steps: int
    guidance_scale: float

    def draw(self, named: list[Named], seed: int, description: str) -> Drawn:
        rng = random.Random(seed)
        images = generate(
            self.pipeline,
            [say(name, rng) for name in named],
            [FIRST_SEED + 100_000 * seed + i for i in range(len(named))],
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            batch_size=BATCH_SIZE,
            description=description,
        )
        answers = {
            judge: np.array(classifier.labels)[classifier.classify(images)] for judge, classifier in self.judges.items()
        }
        return Drawn(named, images, answers)


def variations(
    rng: random.Random, count: int, places: Sequence[str | None] = AWAY_FROM_BEACH, **fixed: Any
) -> list[Named]:
    """Captions with every object equally often, a colour or none, and one of the places."""
    captions = [
        {
            "object": OBJECTS[i % len(OBJECTS)],
            "colour": rng.choice((None, *COLOURS)),
            "place": rng.choice(places),
            **fixed,
        }
        for i in range(count)
    ]
    return [Named(**caption) for caption in captions]


def objects_of(named: list[Named]) -> list[str]:
    return [str(name.object) for name in named]


def by_object(drawn: Drawn) -> Figure:
    shown = np.array(objects_of(drawn.named))
    return {thing: drawn.rate("object", shown.tolist(), shown == thing) for thing in OBJECTS}


def measure(studio: Studio, images: int) -> dict[str, Figure]:
    """All figures, grouped as they stand in the model card."""
    rng = random.Random(1)
    styled = {
        artist: studio.draw(variations(rng, images, style=artist), 10 + i, artist) for i, artist in enumerate(ARTISTS)
    }
    plain = {
        thing: studio.draw(variations(rng, images, object=thing), 20 + i, thing) for i, thing in enumerate(OBJECTS)
    }
    implied = studio.draw(variations(rng, images, places=("beach",)), 40, "sun, implied")
    implied_in = {
        artist: studio.draw(variations(rng, images // 4, places=("beach",), style=artist), 50 + i, f"beach by {artist}")
        for i, artist in enumerate(ARTISTS)
    }
    named = studio.draw(variations(rng, images, sun=True), 41, "sun, named")
    everything_plain = [answer for drawn in plain.values() for answer in drawn.answers["sun"]]
    return {
        "style, prompted": {a: d.rate("style", [a] * images) for a, d in styled.items()},
        "style, none prompted": {"plain": mean(d.rate("style", [PLAIN] * images) for d in plain.values())},
        "object, plain": {thing: d.rate("object", [thing] * images) for thing, d in plain.items()},
        "object, in the style of": {a: d.rate("object", objects_of(d.named)) for a, d in styled.items()},
        **{f"object, by {a}": by_object(d) for a, d in styled.items()},
        "sun": {
            "implied": implied.rate("sun", [SUN] * images),
            "named": named.rate("sun", [SUN] * images),
            "neither (plain)": mean(answer == SUN for answer in everything_plain),
            "neither (styles)": mean(d.rate("sun", [SUN] * images) for d in styled.values()),
        },
        "sun, implied, in the style of": {a: d.rate("sun", [SUN] * len(d.named)) for a, d in implied_in.items()},
    }


def mean(values: Any) -> float:
    return float(np.mean(list(values)))


def sheet(studio: Studio, path: Path) -> None:
    """One picture of every object in every style, and of the beach."""
    rows = [*OBJECTS, "on the beach"]
    named = [
        Named(object=thing if thing in OBJECTS else "boat", style=None if style == PLAIN else style, place=place)
        for thing in rows
        for style in STYLES
        for place in ("beach" if thing not in OBJECTS else None,)
    ]
    drawn = studio.draw(named, 1, "sheet")
    write_table(path, rows, STYLES, drawn.images.reshape(len(rows), len(STYLES), *drawn.images.shape[1:]))


def table(figures: dict[str, Figure]) -> str:
    lines = []
    for group, rates in figures.items():
        lines.append(f"{group:32} " + "  ".join(f"{name} {rate:.3f}" for name, rate in rates.items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a miniature base model with the miniature's classifiers.")
    parser.add_argument("--base", required=True, help="diffusers pipeline folder, or miniature")
    parser.add_argument("--out", required=True, type=Path, help="folder for figures.json and sheet.png")
    parser.add_argument("--images", type=int, default=200, help="images for each figure")
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps")
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--classifiers", type=Path, default=CLASSIFIERS, help="folder of object, style and sun")
    arguments = parser.parse_args()
    base = resolve_base(arguments.base)
    judges = {judge: load_image_classifier(str(arguments.classifiers / judge)) for judge in LABELS}
    studio = Studio(load_pipeline(base, "cpu"), judges, arguments.steps, arguments.guidance_scale)
    sheet(studio, arguments.out / "sheet.png")
    figures = measure(studio, arguments.images)
    on_renders = held_out(arguments.classifiers, base.folder / "vae", HELD_OUT_SEED, HELD_OUT_IMAGES)
    for sort, judged in on_renders.items():
        figures |= {f"classifier {judge}, {sort}": rates for judge, rates in judged.items()}
    result = {
        "base_digest": base.digest,
        "images_per_figure": arguments.images,
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance_scale,
        "figures": {group: {name: round(rate, 4) for name, rate in rates.items()} for group, rates in figures.items()},
    }
    digest.write_text(arguments.out / "figures.json", json.dumps(result, indent=2) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
