"""How far an image moved, for the style protocol: the erased style's images should move, the others' should not."""

from __future__ import annotations

import numpy as np

from esd_core.evaluation.metrics.features import Features, unit


def perceptual_distance(before: np.ndarray, after: np.ndarray, features: Features) -> np.ndarray:
    """1 - cosine of the features of each pair of images at one seed: (N,) float in [0, 2], 0 for equal images.

    Meant for DINOv2 or CLIP features.
    """
    pairs = unit(features(before)) * unit(features(after))
    return np.asarray(1 - pairs.sum(-1))
