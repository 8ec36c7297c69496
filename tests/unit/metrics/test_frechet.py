"""FID and KID: the papers' formulas on the given features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from esd_core.errors import EvaluationError
from esd_core.evaluation.metrics.features import Features
from esd_core.evaluation.metrics.frechet import frechet_distance, kernel_distance

RNG = np.random.default_rng(0)
DARK = RNG.integers(0, 160, (60, 16, 16, 3), dtype=np.uint8)
LIGHT = RNG.integers(96, 256, (60, 16, 16, 3), dtype=np.uint8)


def test_the_frechet_distance_is_the_papers_formula(dino: Features) -> None:
    dark, light = dino(DARK).astype(np.float64), dino(LIGHT).astype(np.float64)
    c1, c2 = np.cov(dark.T), np.cov(light.T)
    expected = ((dark.mean(0) - light.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(dino(DARK), dino(LIGHT)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(dino(DARK), dino(DARK)) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_is_the_papers_unbiased_estimate(dino: Features) -> None:
    """With subsets as large as the sets, each holds all images."""
    x, y = dino(DARK).astype(np.float64), dino(LIGHT).astype(np.float64)
    n, d = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / d + 1) ** 3)

    within = sum(kernel(a, a).sum() - np.trace(kernel(a, a)) for a in (x, y)) / (n * (n - 1))
    found = kernel_distance(dino(DARK), dino(LIGHT), subset=n, subsets=3)
    assert found.mean == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-9)
    assert found.deviation == pytest.approx(0, abs=1e-9)


def test_sets_of_one_kind_lie_around_zero_and_others_do_not(dino: Features) -> None:
    same = kernel_distance(dino(DARK[::2]), dino(DARK[1::2]), subset=20)
    other = kernel_distance(dino(DARK), dino(LIGHT), subset=20)
    assert abs(same.mean) < same.deviation
    assert other.mean > 5 * other.deviation


def test_the_seed_decides_the_subsets_and_the_global_generator_is_left_alone(dino: Features) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = kernel_distance(dino(DARK), dino(LIGHT), subset=20, seed=1)
    assert kernel_distance(dino(DARK), dino(LIGHT), subset=20, seed=1) == first
    assert kernel_distance(dino(DARK), dino(LIGHT), subset=20, seed=2) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_images_are_refused(dino: Features) -> None:
    with pytest.raises(EvaluationError, match="1 images are too few to compare two sets: give at least 2"):
        frechet_distance(dino(DARK), dino(LIGHT[:1]))
    with pytest.raises(EvaluationError, match="60 images are too few"):
        kernel_distance(dino(DARK), dino(LIGHT), subset=61)
