"""How far two sets of images lie apart: FID and KID, on the features of any transformers vision model.

The statistics are torchmetrics'. Figures of different feature models, numbers of images or resolutions do not compare.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from esd_core.errors import EvaluationError


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over random subsets of the images."""

    mean: float
    deviation: float


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """FID: |m1 - m2|^2 + Tr(C1 + C2 - 2 sqrt(C1 C2)) of the features' means and covariances; 0 for equal sets.

    Features of the images, (N, D) each.

    Heusel et al., NeurIPS 2017, equation 6. Few images bias it upwards: it wants many times more of them than the
    features have dimensions. Raises EvaluationError for fewer than two.
    """
    _check(2, real, generated)
    before, after = _doubles(real), _doubles(generated)
    metric = FrechetInceptionDistance(_Given(before.shape[1]))
    metric.update(before, real=True)
    metric.update(after, real=False)
    return float(metric.compute())


def kernel_distance(
    real: np.ndarray, generated: np.ndarray, *, subset: int = 50, subsets: int = 100, seed: int = 0
) -> KernelDistance:
    """KID: squared maximum mean discrepancy of the features under (x.y / D + 1)^3, over random subsets.

    Binkowski et al., ICLR 2018, section 3. Not biased by few images; around 0, also below, for equally distributed
    sets. Raises EvaluationError for fewer images than a subset.
    """
    _check(subset, real, generated)
    before, after = _doubles(real), _doubles(generated)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws its subsets from the global generator
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it keeps all features: they are here already
            metric = KernelInceptionDistance(_Given(before.shape[1]), subsets=subsets, subset_size=subset)
        metric.update(before, real=True)
        metric.update(after, real=False)
        mean, deviation = metric.compute()
    return KernelDistance(float(mean), float(deviation))


class _Given(nn.Module):
    """Features that were computed already, under torchmetrics' interface of a feature extractor."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def _doubles(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features).double()


def _check(least: int, *sets: np.ndarray) -> None:
    fewest = min(len(images) for images in sets)
    if fewest < least:
        raise EvaluationError(f"{fewest} images are too few to compare two sets: give at least {least}")
