"""Intervals: as published, and covering as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from esd_core.evaluation.intervals import paired_difference, wilson

SIMULATIONS = 4000


@pytest.mark.parametrize(("hits", "images"), [(0, 24), (1, 24), (23, 24), (24, 24), (7, 50), (0, 1)])
def test_the_interval_of_a_rate_is_wilsons(hits: int, images: int) -> None:
    interval = wilson(hits, images)
    expected = binomtest(hits, images).proportion_ci(method="wilson")
    assert (interval.lower, interval.upper) == pytest.approx((expected.low, expected.high))


def test_a_rate_of_no_images_may_be_anything() -> None:
    assert (wilson(0, 0).lower, wilson(0, 0).upper) == (0, 1)


def test_the_interval_of_a_difference_is_bonetts_and_prices() -> None:
    interval = paired_difference(only_before=20, only_after=10, images=98)
    # by hand: (11 - 21) / 100 -+ 1.96 * sqrt((0.32 - 0.01) / 100)
    assert (interval.lower, interval.upper) == pytest.approx((-0.1 - 0.10913, -0.1 + 0.10913), abs=1e-4)


@pytest.mark.parametrize("images", [4, 12, 24, 100])
def test_the_interval_of_a_rate_covers_as_often_as_it_says(images: int) -> None:
    """On average over rates, as Brown, Cai and DasGupta found in 2001; at single rates somewhat more or less."""
    hits, rates = np.arange(images + 1), np.linspace(0.005, 0.995, 199)
    intervals = [wilson(h, images) for h in hits.tolist()]
    lower, upper = (np.array([getattr(interval, end) for interval in intervals]) for end in ("lower", "upper"))
    covered = [binom.pmf(hits, images, rate) @ ((lower <= rate) & (rate <= upper)) for rate in rates]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("images", [12, 24, 100])
@pytest.mark.parametrize(("lost", "gained"), [(0.0, 0.0), (0.02, 0.02), (0.1, 0.01), (0.3, 0.1), (0.9, 0.0)])
def test_the_interval_of_a_difference_covers_as_often_as_it_says(lost: float, gained: float, images: int) -> None:
    chances = [lost, gained, 1 - lost - gained]
    counts = np.random.default_rng(0).multinomial(images, chances, size=SIMULATIONS)
    intervals = [paired_difference(before, after, images) for before, after, _ in counts.tolist()]
    covered = np.mean([interval.lower <= gained - lost <= interval.upper for interval in intervals])
    assert covered > 0.94
