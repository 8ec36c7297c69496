"""FID: the paper's formula on the given features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from esd_core.errors import EvaluationError
from esd_core.evaluation.metrics.features import Features
from esd_core.evaluation.metrics.frechet import frechet_distance

RNG = np.random.default_rng(0)
DARK = RNG.integers(0, 160, (60, 16, 16, 3), dtype=np.uint8)
LIGHT = RNG.integers(96, 256, (60, 16, 16, 3), dtype=np.uint8)


def test_the_frechet_distance_is_the_papers_formula(dino: Features) -> None:
    dark, light = dino(DARK).astype(np.float64), dino(LIGHT).astype(np.float64)
    c1, c2 = np.cov(dark.T), np.cov(light.T)
    expected = ((dark.mean(0) - light.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(dino(DARK), dino(LIGHT)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(dino(DARK), dino(DARK)) == pytest.approx(0, abs=1e-6)


def test_too_few_images_are_refused(dino: Features) -> None:
    with pytest.raises(EvaluationError, match="1 images are too few to compare two sets: give at least 2"):
        frechet_distance(dino(DARK), dino(LIGHT[:1]))
