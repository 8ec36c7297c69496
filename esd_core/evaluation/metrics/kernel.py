"""KID: how far two sets of images lie apart, with an interval, on the features of any transformers vision model."""

from __future__ import annotations

from math import sqrt

import numpy as np

from esd_core.errors import EvaluationError
from esd_core.evaluation.intervals import CONFIDENCE, Interval

LEAST = 20  # images of a set: of fewer, the interval itself would be a guess


def kernel_distance(real: np.ndarray, generated: np.ndarray, *, same_prompts: bool) -> tuple[float, Interval | None]:
    """KID: squared maximum mean discrepancy of features (N, D) each under (x.y / D + 1)^3, and its 95 % interval.

    Binkowski et al., ICLR 2018, section 3, on all images at once; not biased by few images, and around 0, also below,
    for sets of one kind. same_prompts: images i of both sets were drawn for one prompt. They are more alike than
    others, which would take the distance below 0, so that they are not compared with each other: Gretton et al., JMLR
    13, 2012, equation 4. The interval is the jackknife's, leaving out each image (or pair) once; None for fewer than
    LEAST.
    Raises EvaluationError for fewer than two images, or pairs that are none.
    """
    m, n = len(real), len(generated)
    if min(m, n) < 2 or (same_prompts and m != n):
        raise EvaluationError(
            f"{m} and {n} images cannot be compared: give at least 2{' of each, equally many' if same_prompts else ''}"
        )
    within_real, within_generated, across = _kernel(real, real), _kernel(generated, generated), _kernel(real, generated)
    np.fill_diagonal(within_real, 0.0)
    np.fill_diagonal(within_generated, 0.0)
    if same_prompts:
        np.fill_diagonal(across, 0.0)

    def distance(a: np.ndarray, b: np.ndarray, c: np.ndarray, m: int, n: int) -> np.ndarray:
        """Of the three sums over pairs of m and n images; any number of them at once."""
        return a / (m * (m - 1)) + b / (n * (n - 1)) - 2 * c / (n * (n - 1) if same_prompts else m * n)

    a, b, c = within_real.sum(), within_generated.sum(), across.sum()
    value = float(distance(a, b, c, m, n))
    if min(m, n) < LEAST:
        return value, None
    fewer_a, fewer_b = a - 2 * within_real.sum(1), b - 2 * within_generated.sum(1)
    if same_prompts:
        left_out = [distance(fewer_a, fewer_b, c - across.sum(0) - across.sum(1), m - 1, n - 1)]
    else:
        left_out = [
            distance(fewer_a, b, c - across.sum(1), m - 1, n),
            distance(a, fewer_b, c - across.sum(0), m, n - 1),
        ]
    return value, _jackknife(value, left_out, min(m, n))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3)


def _jackknife(value: float, left_out: list[np.ndarray], images: int) -> Interval:
    """Of a value, by what it is without each of the images of one or of two sets."""
    from scipy.stats import t  # a second to import

    error = sqrt(sum((len(each) - 1) * float(each.var()) for each in left_out))
    half = float(t.ppf((1 + CONFIDENCE) / 2, images - 1)) * error
    return Interval(lower=value - half, upper=value + half)
