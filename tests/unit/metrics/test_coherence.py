"""Coherence: what the miniature draws passes; one colour, noise and half noise do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import resolve_base
from esd_core.errors import EvaluationError
from esd_core.evaluation.metrics.coherence import (
    CoherentRange,
    coherent_range,
    incoherent,
    patch_distance,
    total_variation,
)
from esd_core.evaluation.metrics.features import Features
from esd_core.evaluation.suite import load_suite
from esd_core.generation import generate

FALSE_ALARMS = 0.03
REFERENCE, HELD_OUT = 200, 40


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """What the miniature draws for its own suite: (REFERENCE + HELD_OUT, 64, 64, 3), probes in turn, seeds all new."""
    suite = load_suite("miniature")
    each = (REFERENCE + HELD_OUT) // len(suite.probes)
    cases = [case for row in zip(*(suite.cases(probe, each) for probe in suite.probes), strict=True) for case in row]
    prompts, seeds = zip(*cases, strict=True)
    pipeline = load_pipeline(resolve_base("miniature"), "cpu")
    return generate(pipeline, prompts, seeds, steps=5, guidance_scale=4.0, batch_size=60, progress=False)


@pytest.fixture(scope="module")
def allowed(drawn: np.ndarray, objects: Features) -> CoherentRange:
    return coherent_range(drawn[:REFERENCE], objects, FALSE_ALARMS)


def uniform(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(rng.integers(0, 256, (len(images), 1, 1, 3), dtype=np.uint8), images.shape)


def noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, images.shape, dtype=np.uint8)


def half_noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (images // 2 + noise(images, rng) // 2).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("spoil", [uniform, noise, half_noise])
def test_what_is_no_picture_is_noticed(
    drawn: np.ndarray,
    objects: Features,
    allowed: CoherentRange,
    spoil: Callable[[np.ndarray, np.random.Generator], np.ndarray],
) -> None:
    spoilt = spoil(drawn[REFERENCE:], np.random.default_rng(0))
    assert incoherent(spoilt, objects, allowed).mean() > 0.95


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_new_pictures_of_the_base_pass(drawn: np.ndarray, objects: Features, allowed: CoherentRange) -> None:
    """3 % of 40 images are expected outside; 6 or more would be seen once in 850 times."""
    assert incoherent(drawn[REFERENCE:], objects, allowed).sum() < 6


def test_the_bounds_leave_out_as_many_as_they_say(dino: Features) -> None:
    images = np.random.default_rng(0).integers(0, 256, (198, 16, 16, 3), dtype=np.uint8)
    for false_alarms, beyond in ((0.03, 0), (0.12, 3)):
        allowed = coherent_range(images, dino, false_alarms)
        others = images[np.random.default_rng(0).permutation(198)[99:]]
        variation, distance = total_variation(others), patch_distance(others, dino, allowed.known)
        assert (variation > allowed.roughest).sum() == (variation < allowed.flattest).sum() == beyond
        assert (distance > allowed.farthest).sum() == beyond
    with pytest.raises(EvaluationError, match=r"196 images cannot tell 3\.0% false alarms: give at least 197"):
        coherent_range(images[:196], dino, 0.03)


def test_total_variation_of_known_images() -> None:
    stripes = np.zeros((1, 8, 8, 3), np.uint8)
    stripes[:, :, ::2] = 255
    flat, rough = total_variation(np.concatenate([np.full_like(stripes, 90), stripes]))
    assert (flat, rough) == (0, 0.5)
    uniform_noise = np.random.default_rng(0).integers(0, 256, (1, 200, 200, 3), dtype=np.uint8)
    assert total_variation(uniform_noise)[0] == pytest.approx(1 / 3, rel=0.02)
