"""A study of painted images: real works by two of the bundled world's artists, and folders as methods would fill them.

Nothing is drawn by a model here; each folder holds paintings in the style that its method would ideally leave.
"""

from __future__ import annotations

import random
from pathlib import Path

import yaml
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

from esd_core.miniature.painting import paint
from esd_core.miniature.world import PLAIN, sample_scene
from infra.human_study.study import Study

ERASED, OTHER = "Van Gogh", "Monet"
SIMILAR = {ERASED: "Klimt", OTHER: "Seurat"}
REFERENCES = 5
WORKS, SIMILAR_WORKS, DRAWN = 6, 2, 2  # images for each artist
TRIALS = 2 * (WORKS + SIMILAR_WORKS + 2 * DRAWN)
SECRET = "drawn by ESD-x"  # a comment in the files, as image tools leave them


def paint_to(path: Path, style: str, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    comment = PngImagePlugin.PngInfo()
    comment.add_text("parameters", SECRET)
    Image.fromarray(paint(sample_scene(random.Random(seed), style=style))).save(path, pnginfo=comment)


def write_study(folder: Path, **fields: object) -> Path:
    """Paint everything and write study.yaml; returns its path."""
    artists = (ERASED, OTHER)
    for a, artist in enumerate(artists):
        for n in range(WORKS):
            paint_to(folder / "works" / artist / f"{n}.png", artist, 100 * a + n)
        for n in range(SIMILAR_WORKS):
            paint_to(folder / "similar" / artist / f"{n}.png", SIMILAR[artist], 1000 + 100 * a + n)
        for n in range(DRAWN):
            seed = 2000 + 100 * a + n
            paint_to(folder / "before" / f"{a}_{n}.png", artist, seed)
            paint_to(folder / "esd-x" / f"{a}_{n}.png", PLAIN if artist == ERASED else artist, seed)
    prompts = [f"{a},a painting by {artist},{a},{artist}" for a, artist in enumerate(artists)]
    (folder / "prompts.csv").write_text("\n".join(["case_number,prompt,evaluation_seed,artist", *prompts]) + "\n")
    definition = {
        "title": "Painted",
        "prompts": "prompts.csv",
        "works": "works",
        "similar": "similar",
        "original": "before",
        "methods": [{"name": "ESD-x", "erased": ERASED, "images": "esd-x"}],
        "references": REFERENCES,
        **fields,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(definition))
    return path


def answer_all(page: TestClient, participant: str, ratings: dict[str, int], study: Study) -> None:
    """Rate every image of each method as `ratings` says."""
    methods = {trial.number: trial.method for trial in study.trials}
    for trial in page.post("/participants", json={"participant": participant}).json()["trials"]:
        rating = ratings[methods[trial["number"]]]
        sent = {"participant": participant, "trial": trial["number"], "rating": rating, "seconds": 1.5}
        assert page.post("/answers", json=sent).status_code == 201
