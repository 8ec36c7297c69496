"""The technique for eval-unlearn, without the benchmark: the images it serves, and what it refuses."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.errors import BaseModelMismatch, EsdError
from esd_core.evaluation.eval_unlearn import EditedWeightsTechnique
from esd_core.generation import generate
from esd_core.weights import apply_weights, read_weights

PROMPTS = ["a house", "a tree", "the sun"]
QUICK = {"num_inference_steps": 2, "device": "cpu"}


def pixels(images: list[Image.Image]) -> np.ndarray:
    assert all(image.mode == "RGB" for image in images)
    return np.stack([np.asarray(image) for image in images]).astype(int)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """The same images; batches of another size round differently."""
    return bool(np.abs(one - other.astype(int)).max() <= 1)


def test_the_entry_point_names_the_technique() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["project"]["entry-points"]["eval_unlearn.techniques"]["esd_pipeline"].partition(":")
    assert getattr(importlib.import_module(module), name) is EditedWeightsTechnique


def test_it_serves_the_edited_model_with_a_seed_for_each_prompt(base: ResolvedBase, edited_weights: Path) -> None:
    technique = EditedWeightsTechnique(weights=str(edited_weights), erase_concept="House", batch_size=2, **QUICK)
    pipeline = load_pipeline(base, "cpu")
    apply_weights(pipeline.unet, read_weights(edited_weights), base.digest)
    expected = generate(pipeline, PROMPTS, [5, 6, 7], steps=2, guidance_scale=7.5, progress=False)
    assert alike(pixels(technique.generate(PROMPTS, seed=5)), expected)
    assert technique.generate([]) == []


def test_without_weights_it_serves_the_base(base: ResolvedBase) -> None:
    expected = generate(load_pipeline(base, "cpu"), PROMPTS, [0, 1, 2], steps=2, guidance_scale=1.5, progress=False)
    served = EditedWeightsTechnique(base=str(base.folder), **QUICK).generate(PROMPTS, seed=0, guidance_scale=1.5)
    assert alike(pixels(served), expected)


def test_without_a_seed_runs_repeat_and_batches_do_not(edited_weights: Path) -> None:
    """The benchmark's command gives no seed, and asks for a batch of prompts at a time."""
    whole, parts = (EditedWeightsTechnique(weights=edited_weights, seed=9, **QUICK) for _ in range(2))
    at_once = pixels(whole.generate(["a house"] * 3))
    assert alike(at_once, pixels(parts.generate(["a house"]) + parts.generate(["a house"] * 2)))
    assert not alike(at_once[0], at_once[1])
    assert not alike(at_once[0], at_once[2])


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({}, "neither weights nor a base"),
        ({"weights": "none.safetensors"}, "no weights file"),
        ({"weights": "WEIGHTS", "erase_concept": "nudity"}, "these weights erase 'house'"),
        ({"weights": "WEIGHTS", "negative_guidance": 2.0}, "negative_guidance: Extra inputs"),
        ({"weights": "WEIGHTS", "batch_size": 0}, "batch_size"),
    ],
)
def test_what_does_not_fit_is_refused(config: dict[str, object], remedy: str, edited_weights: Path) -> None:
    given = {key: edited_weights if value == "WEIGHTS" else value for key, value in config.items()}
    with pytest.raises(EsdError) as refused:
        EditedWeightsTechnique(**given, device="cpu")
    assert remedy in str(refused.value)


def test_weights_of_another_base_are_refused(edited_weights: Path) -> None:
    with pytest.raises(BaseModelMismatch):
        EditedWeightsTechnique(weights=edited_weights, base="miniature", device="cpu")
