"""Confidence intervals of rates, and of differences between rates on the same seeds.

Both hold for a number of images that was fixed beforehand; what a sequential test is sure of, whenever it stops,
`esd_core.evaluation.sequential` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from pydantic import BaseModel, ConfigDict

CONFIDENCE = 0.95


class Interval(BaseModel):
    """From `lower` to `upper`, in the unit of what it is about."""

    model_config = ConfigDict(frozen=True)

    lower: float
    upper: float


def wilson(hits: int, images: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a rate in [0, 1]; all of it when there are no images.

    Wilson, Probable inference, JASA 22, 1927.
    """
    if images == 0:
        return Interval(lower=0.0, upper=1.0)
    z2 = _z(confidence) ** 2
    middle = (hits + z2 / 2) / (images + z2)
    half = sqrt(z2 * (hits * (images - hits) / images + z2 / 4)) / (images + z2)
    return Interval(lower=max(0.0, middle - half), upper=min(1.0, middle + half))


def paired_difference(only_before: int, only_after: int, images: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of rate after - rate before, in [-1, 1], from pairs of images with the same seeds.

    Adjusted Wald interval: Bonett and Price, Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data, JEBS 37, 2012. Pooled over strata of equal size it is the mean difference's, and
    no narrower than one that knows the strata.
    """
    lost, gained = (only_before + 1) / (images + 2), (only_after + 1) / (images + 2)
    middle = gained - lost
    half = _z(confidence) * sqrt((gained + lost - middle**2) / (images + 2))
    return Interval(lower=max(-1.0, middle - half), upper=min(1.0, middle + half))


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> Interval | None:
    """Of the mean of independent values that are never below 0, by Student's t; one value tells of no spread: None."""
    from scipy.stats import t  # a second to import, and few need it

    count, middle = len(values), float(np.mean(values))
    if count < 2:
        return None
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * float(np.std(values, ddof=1)) / sqrt(count)
    return Interval(lower=max(0.0, middle - half), upper=middle + half)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
