"""KID: the papers' formulas on the given features, and intervals that hold."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from esd_core.errors import EvaluationError
from esd_core.evaluation.metrics.features import Features
from esd_core.evaluation.metrics.kernel import LEAST, kernel_distance

RNG = np.random.default_rng(0)
DARK = RNG.integers(0, 160, (60, 16, 16, 3), dtype=np.uint8)
LIGHT = RNG.integers(96, 256, (60, 16, 16, 3), dtype=np.uint8)
RUNS, IMAGES, WIDTH = 300, 40, 8


class Given(nn.Module):
    num_features = WIDTH

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_it_is_the_papers_unbiased_estimate(dino: Features) -> None:
    x, y = dino(DARK).astype(np.float64), dino(LIGHT).astype(np.float64)
    n, d = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / d + 1) ** 3)

    within = sum(kernel(a, a).sum() - np.trace(kernel(a, a)) for a in (x, y)) / (n * (n - 1))
    apart, _ = kernel_distance(x, y, same_prompts=False)
    assert apart == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-9)
    paired, _ = kernel_distance(x, y, same_prompts=True)
    across = (kernel(x, y).sum() - np.trace(kernel(x, y))) / (n * (n - 1))
    assert paired == pytest.approx(within - 2 * across, rel=1e-9)


def test_it_is_what_torchmetrics_computes_of_one_subset_with_all_images() -> None:
    x, y = RNG.normal(size=(2, IMAGES, WIDTH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(Given(), subsets=1, subset_size=IMAGES)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    assert kernel_distance(x, y, same_prompts=False)[0] == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def sets(shift: float, prompts: float, seed: int) -> np.ndarray:
    """Features of two models' images, (2, N, D): `prompts` of it is the prompt's, `shift` apart."""
    random = np.random.default_rng(seed)
    own = random.normal(size=(2, IMAGES, WIDTH)) + prompts * random.normal(size=(IMAGES, WIDTH))
    own[1] += shift
    return np.asarray(own)


@pytest.mark.parametrize(("prompts", "same_prompts"), [(0.0, False), (2.0, True)])
def test_the_interval_holds_zero_for_models_that_are_alike(prompts: float, same_prompts: bool) -> None:
    found = [kernel_distance(*sets(0.0, prompts, seed), same_prompts=same_prompts) for seed in range(RUNS)]
    held = sum(interval.lower <= 0 <= interval.upper for _, interval in found if interval)
    assert held >= 0.93 * RUNS
    values = np.array([value for value, _ in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(RUNS)


def test_images_of_one_prompt_would_take_it_below_zero() -> None:
    found = [kernel_distance(*sets(0.0, 2.0, seed), same_prompts=False) for seed in range(20)]
    assert all(value < 0 for value, _ in found)


def test_models_that_differ_are_told_apart_by_few_images() -> None:
    found = [kernel_distance(*sets(1.0, 2.0, seed), same_prompts=True) for seed in range(20)]
    assert all(interval.lower > 0 for _, interval in found if interval)


def test_too_few_images_have_no_interval_or_are_refused() -> None:
    x, y = sets(0.0, 0.0, 0)
    assert kernel_distance(x[: LEAST - 1], y[: LEAST - 1], same_prompts=True)[1] is None
    with pytest.raises(EvaluationError, match="1 and 40 images cannot be compared: give at least 2"):
        kernel_distance(x[:1], y, same_prompts=False)
    with pytest.raises(EvaluationError, match="give at least 2 of each, equally many"):
        kernel_distance(x[:39], y, same_prompts=True)
