"""How much evidence is enough for a test that looks now and then, and not for ever: less than for one that may.

A fortune of 1 / error is enough however often one looks. A test that looks after every `step` images, at most `most`,
then errs less often than stated. How often, is computed exactly for a base that always shows what is counted, and an
edit on the zone's edge that only loses it, by dynamic programming over the images that lost it; from this follows the
smallest fortune that keeps the stated errors. Other bases and edits were simulated: they err as often at most, and the
last twentieth of the error is left to those (docs/verdict.md).
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, log

import numpy as np

from esd_core.evaluation.sequential import Errors, Payoffs, Zone, evidence

SPENT = 0.95  # share of the error; the rest is for bases and edits that err a little more often than the computed one
BISECTIONS = 12
UNLIKELY = 1e-12  # chances below it are counted as wrong, not followed


@lru_cache
def calibrated(above: Payoffs, zone: Zone, errors: Errors, step: int, most: int) -> Errors:
    """The errors to `decide` by, so that it errs at most as often as `errors` say at the edges of the zone.

    The test looks after every `step` images, at most `most`; decided by less evidence than 1 / error, never by more.
    """
    return Errors(
        wrong_pass=_calibrated(-above(zone.high), errors.wrong_pass, step, most),
        wrong_fail=_calibrated(above(zone.low), errors.wrong_fail, step, most),
    )


def _calibrated(payoffs: np.ndarray, error: float, step: int, most: int) -> float:
    lost = chance_of_loss(payoffs)
    if lost is None or most < step:
        return error
    fortunes, steps = _fortunes(payoffs, lost, step, most), _chances(step, lost)
    low, high = 0.0, -log(error)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if _ever(fortunes, steps, middle) <= SPENT * error else (middle, high)
    return exp(-high)


def chance_of_loss(payoffs: np.ndarray) -> float | None:
    """Share of images, all of which show it before, that must lose it for bets on `payoffs` to be fair; None: none."""
    kept, lost = (float(payoff) for payoff in payoffs[:2])
    return kept / (kept - lost) if kept * lost < 0 else None


def _ever(fortunes: np.ndarray, steps: np.ndarray, enough: float) -> float:
    """fortunes: log of what was made, at every look (rows) and number of losses (columns)."""
    chances = np.zeros(fortunes.shape[1])
    chances[0] = 1.0
    for row in fortunes:
        chances = np.convolve(chances, steps)[: len(chances)]
        chances[row >= enough] = 0.0
    return 1.0 - float(chances.sum())


def _fortunes(payoffs: np.ndarray, lost: float, step: int, most: int) -> np.ndarray:
    """Of every look and number of losses; losses that hardly happen are left out, and thereby counted as wrong."""
    from scipy.stats import binom

    images = np.arange(step, most + 1, step)[:, None]
    losses = np.arange(int(binom.isf(UNLIKELY, images[-1, 0], lost)) + 1)[None, :]
    kept = np.maximum(images - losses, 0)
    nothing = np.zeros_like(kept)
    return evidence(np.stack([kept, losses + nothing, nothing, nothing], -1), payoffs)


def _chances(step: int, lost: float) -> np.ndarray:
    from scipy.stats import binom

    return np.asarray(binom.pmf(np.arange(int(binom.isf(UNLIKELY, step, lost)) + 1), step, lost))
