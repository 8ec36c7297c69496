"""How far an image moved, for the style protocol: the erased style's images should move, the others' should not."""

from __future__ import annotations

import numpy as np

from esd_core.evaluation.metrics.features import unit

DECIMALS = 6  # what float32 features can tell


def perceptual_distance(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """1 - cosine of the features of each pair of images at one seed: (N,) float in [0, 2], 0 for equal images.

    Features (N, D) each, meant to be DINOv2's or CLIP's.
    """
    pairs = unit(before.astype(np.float64)) * unit(after.astype(np.float64))
    return np.asarray((1 - pairs.sum(-1)).round(DECIMALS)) + 0.0  # no -0
