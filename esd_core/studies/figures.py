"""Measured figures with their intervals, as studies show them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from pydantic import BaseModel, ConfigDict

from esd_core.evaluation.intervals import Interval, mean_interval, wilson
from esd_core.evaluation.pairs import PairCounts, pooled
from esd_core.evaluation.results import ProbeResult

MINUS = "\N{MINUS SIGN}"


class Unit(StrEnum):
    SHARE = "share"  # in [0, 1], shown in percent
    POINTS = "points"  # a difference of two shares, in [-1, 1], shown in percentage points
    NUMBER = "number"


class Figure(BaseModel):
    """A value with its 95 % interval, if it has one. images: how many it was counted in."""

    model_config = ConfigDict(frozen=True)

    value: float
    unit: Unit = Unit.NUMBER
    lower: float | None = None
    upper: float | None = None
    images: int | None = None

    @property
    def text(self) -> str:
        match self.unit:
            case Unit.SHARE:
                return f"{100 * self.value:.0f} %"
            case Unit.POINTS:
                return _signed(self.value)
            case Unit.NUMBER:
                return f"{self.value:,.0f}" if float(self.value).is_integer() else f"{self.value:.3g}"

    @property
    def between(self) -> str:
        """The interval in words; empty when there is none."""
        if self.lower is None or self.upper is None:
            return ""
        if self.unit is Unit.POINTS:
            return f"{_signed(self.lower)} to {_signed(self.upper)}"
        if self.unit is Unit.NUMBER:
            return f"{self.lower:.3g} to {self.upper:.3g}"
        return f"{100 * self.lower:.0f} to {100 * self.upper:.0f}"


def _signed(difference: float) -> str:
    points = round(100 * difference)
    return f"+{points}" if points > 0 else f"{MINUS}{-points}" if points < 0 else "0"


def share(hits: int, images: int) -> Figure:
    """A rate with Wilson's interval."""
    return _figure(hits / images if images else 0.0, Unit.SHARE, wilson(hits, images), images)


def mean(values: np.ndarray) -> Figure:
    """Of a number measured in each image, with Student's interval where there are several."""
    return _figure(float(values.mean()), Unit.NUMBER, mean_interval(values), len(values))


def rate_before(counts: PairCounts) -> Figure:
    return share(counts.hits_before, counts.images)


def rate_after(counts: PairCounts) -> Figure:
    return share(counts.hits_after, counts.images)


def change(result: ProbeResult) -> Figure:
    """Of the rate, after - before, with the paired interval."""
    return _figure(result.after - result.before, Unit.POINTS, result.change_interval, result.images)


def efficacy(result: ProbeResult) -> Figure:
    """Share of the images that showed the concept before and do not any more at the same seeds."""
    return share(result.only_before, result.hits_before)


def _figure(value: float, unit: Unit, interval: Interval | None, images: int) -> Figure:
    return Figure(value=value, unit=unit, **(dict(interval) if interval else {}), images=images)


def together(name: str, results: Sequence[ProbeResult]) -> ProbeResult:
    """Several probes' pairs as one; of equally many images each, its rates are their means."""
    coherent = [result.coherent for result in results if result.coherent]
    return ProbeResult(
        probe=name,
        concept=name,
        implied=all(result.implied for result in results),
        coherent=pooled(coherent) if coherent else None,
        **pooled(results).pairs._asdict(),
    )
