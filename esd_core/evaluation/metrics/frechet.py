"""FID: how far two sets of images lie apart, on the features of any transformers vision model.

The statistics are torchmetrics'. Figures of different feature models, numbers of images or resolutions do not compare.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from esd_core.errors import EvaluationError


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """FID: |m1 - m2|^2 + Tr(C1 + C2 - 2 sqrt(C1 C2)) of the features' means and covariances; 0 for equal sets.

    Features of the images, (N, D) each.

    Heusel et al., NeurIPS 2017, equation 6. Few images bias it upwards: it wants many times more of them than the
    features have dimensions. Raises EvaluationError for fewer than two.
    """
    fewest = min(len(real), len(generated))
    if fewest < 2:
        raise EvaluationError(f"{fewest} images are too few to compare two sets: give at least 2")
    before, after = _doubles(real), _doubles(generated)
    metric = FrechetInceptionDistance(_Given(before.shape[1]))
    metric.update(before, real=True)
    metric.update(after, real=False)
    return float(metric.compute())


class _Given(nn.Module):
    """Features that were computed already, under torchmetrics' interface of a feature extractor."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def _doubles(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features).double()
