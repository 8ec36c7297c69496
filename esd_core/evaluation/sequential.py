"""Sequential tests by betting: images are made until the figure is known to lie on one side of its limit.

Whether the true figure is below (or above) a bound is tested by betting against it: a fortune of 1 is staked on every
image, fairly at worst if the bound holds, so it exceeds 1 / error with probability at most `error`, however often one
looks and whenever one stops (Ville 1939; Waudby-Smith and Ramdas, Estimating means of bounded random variables by
betting, JRSS B 86, 2024). Nothing is assumed about how the base's and the edited model's answers hang together.

Counts are of pairs of images with equal seeds, in the order of `Pairs`: arrays (..., 4), so that many runs are
tested at once. The order of the images does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from math import log
from typing import NamedTuple

import numpy as np

STAKES = np.array([0.1, 0.3, 0.5, 0.9])  # shares of what may be staked without ruin; the fortune is split evenly
BISECTIONS = 30


class Pairs(NamedTuple):
    """Images at equal seeds by whether they show something: with both models, only one, or neither."""

    both: int
    only_before: int
    only_after: int
    neither: int


class Decision(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


class Zone(NamedTuple):
    """Around a limit: at or below `low` a pass is right, from `high` on a failure; between them, either."""

    low: float
    high: float


class Errors(NamedTuple):
    """At most these shares of models at or beyond the zone's edges are judged wrongly."""

    wrong_pass: float
    wrong_fail: float


Payoffs = Callable[[float], np.ndarray]  # of a bound, for each of `Pairs`: positive on average when the figure is above


def share_above(bound: float) -> np.ndarray:
    """after - bound * before: positive on average where more than this share of the base rate remains."""
    return np.array([1 - bound, -bound, 1.0, 0.0])


def drop_above(bound: float) -> np.ndarray:
    """before - after - bound: positive on average where the rate falls by more than the bound."""
    return np.array([-bound, 1 - bound, -1 - bound, -bound])


def broken_above(bound: float) -> np.ndarray:
    """1 - after - bound, of pairs that count pictures: positive on average where more than this share is none."""
    return np.array([-bound, 1 - bound, -bound, 1 - bound])


def evidence(counts: np.ndarray, payoffs: np.ndarray) -> np.ndarray:
    """Log of the fortune that bets on a positive mean payoff have made: (...) of counts (..., 4).

    A stake multiplies its part of the fortune by 1 + stake * payoff / (largest loss) at every image. With strata of
    unequal rates this is still fair at best, by the inequality of arithmetic and geometric means. Where no payoff is
    negative, one positive payoff is proof.
    """
    loss = -payoffs.min()
    if loss <= 0:
        return np.where((counts * (payoffs > 0)).sum(-1) > 0, np.inf, 0.0)
    fortunes = counts @ np.log1p(np.multiply.outer(payoffs / loss, STAKES))
    best = fortunes.max(-1)
    return np.asarray(best + np.log(np.exp(fortunes - best[..., None]).mean(-1)))


def decide(counts: Pairs, above: Payoffs, zone: Zone, errors: Errors) -> Decision:
    """Which side of its limit the figure is on. Evidence for both sides means a figure inside the zone: a pass."""
    found = np.array(counts, float)
    if evidence(found, -above(zone.high)) >= -log(errors.wrong_pass):
        return Decision.PASSED
    if evidence(found, above(zone.low)) >= -log(errors.wrong_fail):
        return Decision.FAILED
    return Decision.UNDECIDED


def bounds(counts: Pairs, above: Payoffs, span: tuple[float, float], errors: Errors) -> tuple[float, float]:
    """The figure's confidence sequence within `span`: what the test has not ruled out yet.

    It misses the figure's true value, at any time, with at most the probability wrong_fail below and wrong_pass above.
    """
    found = np.array(counts, float)

    def not_below(bound: float) -> bool:
        return bool(evidence(found, above(bound)) >= -log(errors.wrong_fail))

    def not_above(bound: float) -> bool:
        return bool(evidence(found, -above(bound)) >= -log(errors.wrong_pass))

    low, high = span
    lower = _last(low, high, not_below) if not_below(low) else low
    upper = _last(high, low, not_above) if not_above(high) else high
    return lower, upper


def _last(start: float, end: float, holds: Callable[[float], bool]) -> float:
    """Where, on the way from `start` to `end`, a condition stops holding that holds at the start."""
    for _ in range(BISECTIONS):
        middle = (start + end) / 2
        start, end = (middle, end) if holds(middle) else (start, middle)
    return start
