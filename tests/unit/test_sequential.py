"""Sequential tests: wrong as rarely as stated, however often one looks, and quick where the answer is clear."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from esd_core.evaluation.calibration import SPENT, calibrated
from esd_core.evaluation.sequential import (
    Decision,
    Errors,
    Pairs,
    Payoffs,
    Zone,
    bounds,
    broken_above,
    decide,
    drop_above,
    evidence,
    share_above,
)

RUNS, IMAGES = 2000, 600
ERRORS = Errors(0.05, 0.05)
NOISE = 0.01  # two standard errors of a share of 5 % of the runs
SHARE, DROP, BROKEN = Zone(0.06, 0.14), Zone(0.03, 0.07), Zone(0.15, 0.25)


def ever(counts: np.ndarray, payoffs: np.ndarray, error: float) -> float:
    """Share of runs in which the evidence suffices after any of the images."""
    return float((evidence(counts, payoffs) >= -np.log(error)).any(1).mean())


def runs(chances: list[float]) -> np.ndarray:
    """Counts of pairs after every image: (RUNS, IMAGES, 4)."""
    pairs = np.random.default_rng(0).choice(4, (RUNS, IMAGES), p=chances)
    return np.stack([(pairs == kind).cumsum(1) for kind in range(4)], -1)


def share_chances(remaining: float, base_rate: float, overlap: float) -> list[float]:
    """Chances of pairs when `overlap` of the images that still show the concept showed it before."""
    after = remaining * base_rate
    both = overlap * after
    return [both, base_rate - both, after - both, 1 - base_rate - after + both]


@pytest.mark.parametrize(("base_rate", "overlap"), [(1.0, 1.0), (0.5, 1.0), (0.5, 0.0), (0.15, 0.15)])
def test_too_much_of_a_concept_is_rarely_passed_however_often_one_looks(base_rate: float, overlap: float) -> None:
    counts = runs(share_chances(SHARE.high, base_rate, overlap))
    assert ever(counts, -share_above(SHARE.high), ERRORS.wrong_pass) <= 0.05


@pytest.mark.parametrize(("base_rate", "overlap"), [(1.0, 1.0), (0.5, 1.0), (0.5, 0.0), (0.15, 0.15)])
def test_little_enough_of_a_concept_is_rarely_failed_however_often_one_looks(base_rate: float, overlap: float) -> None:
    counts = runs(share_chances(SHARE.low, base_rate, overlap))
    assert ever(counts, share_above(SHARE.low), ERRORS.wrong_fail) <= 0.05


@pytest.mark.parametrize("gained", [0.0, 0.01, 0.1, 0.3])
def test_a_drop_is_rarely_misjudged_however_often_one_looks(gained: float) -> None:
    counts = runs([0.0, DROP.high + gained, gained, 1 - DROP.high - 2 * gained])
    assert ever(counts, -drop_above(DROP.high), ERRORS.wrong_pass) <= 0.05
    counts = runs([0.0, DROP.low + gained, gained, 1 - DROP.low - 2 * gained])
    assert ever(counts, drop_above(DROP.low), ERRORS.wrong_fail) <= 0.05


@pytest.mark.parametrize("before", [1.0, 0.9])
def test_broken_images_are_rarely_misjudged_however_often_one_looks(before: float) -> None:
    """Pairs count pictures: a share of them is none after the erasure, whatever the base drew at that seed."""

    def chances(broken: float) -> list[float]:
        after = 1 - broken
        return [before * after, before * broken, (1 - before) * after, (1 - before) * broken]

    assert ever(runs(chances(BROKEN.high)), -broken_above(BROKEN.high), ERRORS.wrong_pass) <= 0.05
    assert ever(runs(chances(BROKEN.low)), broken_above(BROKEN.low), ERRORS.wrong_fail) <= 0.05


def test_less_evidence_is_enough_for_a_test_that_ends_and_how_much_is_exact() -> None:
    """Every way in which ten images can turn out, counted: with the least evidence that still keeps 10 %."""
    zone, images = Zone(0.2, 0.5), 10
    ways = np.array(list(product((0, 1), repeat=images)))  # 1: the concept is lost
    lost = ways.cumsum(1)
    nothing = np.zeros_like(lost)
    counts = np.stack([np.arange(1, images + 1) - lost, lost, nothing, nothing], -1)
    chances = np.where(ways, 1 - zone.high, zone.high).prod(1)
    error = calibrated(share_above, zone, Errors(0.1, 0.1), 1, images).wrong_pass
    assert error > 0.1

    def wrong(error: float) -> float:
        return float(chances[(evidence(counts, -share_above(zone.high)) >= -np.log(error)).any(1)].sum())

    assert wrong(error) <= SPENT * 0.1 < wrong(error * 1.01)


@pytest.mark.parametrize(("base_rate", "overlap"), [(1.0, 1.0), (0.9, 1.0), (0.9, 0.5), (0.5, 0.0), (0.15, 0.15)])
def test_less_evidence_keeps_the_stated_errors_on_unsure_bases_too(base_rate: float, overlap: float) -> None:
    errors = calibrated(share_above, SHARE, ERRORS, 1, IMAGES)
    assert min(errors) > 0.05
    counts = runs(share_chances(SHARE.high, base_rate, overlap))
    assert ever(counts, -share_above(SHARE.high), errors.wrong_pass) <= 0.05 + NOISE
    counts = runs(share_chances(SHARE.low, base_rate, overlap))
    assert ever(counts, share_above(SHARE.low), errors.wrong_fail) <= 0.05 + NOISE


@pytest.mark.parametrize("gained", [0.0, 0.01, 0.1])
def test_less_evidence_keeps_the_stated_errors_where_concepts_appear_anew(gained: float) -> None:
    probes = 20
    errors = calibrated(drop_above, DROP, ERRORS, probes, IMAGES)
    assert min(errors) > 0.05
    for bound, side, error in ((DROP.high, -1, errors.wrong_pass), (DROP.low, 1, errors.wrong_fail)):
        counts = runs([0.0, bound + gained, gained, 1 - bound - 2 * gained])[:, probes - 1 :: probes]
        assert ever(counts, side * drop_above(bound), error) <= 0.05 + NOISE


def test_an_edge_that_no_edit_of_a_sure_base_reaches_keeps_the_full_evidence() -> None:
    assert calibrated(share_above, Zone(0.7, 1.1), ERRORS, 1, 100).wrong_pass == 0.05


def test_probes_of_unequal_rates_do_not_make_it_err_more() -> None:
    """Ten probes in turn, one of which loses all of the mean drop."""
    random, rounds = np.random.default_rng(0), IMAGES // 10
    lost = np.zeros((RUNS, rounds, 10), bool)
    lost[..., 0] = random.random((RUNS, rounds)) < 10 * DROP.high
    losses = lost.sum(2).cumsum(1)
    images = 10 * np.arange(1, rounds + 1)
    zeros = np.zeros_like(losses)
    counts = np.stack([zeros, losses, zeros, images - losses], -1)
    errors = calibrated(drop_above, DROP, ERRORS, 10, IMAGES)
    assert ever(counts, -drop_above(DROP.high), errors.wrong_pass) <= 0.05


def test_the_fortune_is_the_product_of_its_stakes() -> None:
    """By hand: 5 losses of 0.14 * stake each won and one bet lost, evenly split over four stakes."""
    counts = np.array([1, 5, 0, 0])
    stakes = np.array([0.1, 0.3, 0.5, 0.9])
    fortune = np.mean((1 + 0.14 * stakes) ** 5 * (1 - 0.86 * stakes))
    assert np.exp(evidence(counts, -share_above(0.14))) == pytest.approx(fortune)


def test_a_clear_case_is_decided_by_few_images() -> None:
    assert decide(Pairs(0, 40, 0, 0), share_above, SHARE, ERRORS) is Decision.PASSED
    assert decide(Pairs(4, 0, 0, 0), share_above, SHARE, ERRORS) is Decision.FAILED
    assert decide(Pairs(0, 4, 0, 0), share_above, SHARE, ERRORS) is Decision.UNDECIDED


def test_a_concept_that_the_base_never_shows_stays_undecided() -> None:
    assert decide(Pairs(0, 0, 0, 5000), share_above, SHARE, ERRORS) is Decision.UNDECIDED


def test_what_lies_inside_the_zone_passes_in_the_end() -> None:
    assert decide(Pairs(1000, 9000, 0, 0), share_above, SHARE, ERRORS) is Decision.PASSED


def test_where_nothing_may_remain_one_image_is_proof() -> None:
    nothing = Zone(0.0, 0.01)
    assert decide(Pairs(0, 100, 0, 0), share_above, nothing, ERRORS) is Decision.UNDECIDED
    assert decide(Pairs(1, 100, 0, 0), share_above, nothing, ERRORS) is Decision.FAILED


@pytest.mark.parametrize(
    ("above", "span"), [(share_above, (0.0, 1.0)), (drop_above, (-1.0, 1.0)), (broken_above, (0.0, 1.0))]
)
@pytest.mark.parametrize("counts", [Pairs(0, 40, 0, 0), Pairs(3, 50, 1, 6), Pairs(40, 5, 5, 50), Pairs(0, 0, 0, 0)])
def test_the_bounds_are_what_the_test_has_not_ruled_out(
    counts: Pairs, above: Payoffs, span: tuple[float, float]
) -> None:
    lower, upper = bounds(counts, above, span, ERRORS)
    assert span[0] <= lower <= upper <= span[1]
    if upper < span[1]:
        assert decide(counts, above, Zone(span[0], upper + 1e-6), ERRORS) is Decision.PASSED
        assert decide(counts, above, Zone(lower + 1e-6, upper - 1e-6), ERRORS) is Decision.UNDECIDED


def test_the_bounds_miss_the_truth_as_rarely_as_stated_when_one_stops_at_a_decision() -> None:
    missed = 0
    for seed in range(300):
        random, found, zone = np.random.default_rng(seed), np.zeros(4, int), Zone(0.06, 0.14)
        while found.sum() < 300:
            found += random.multinomial(8, share_chances(0.04, 0.9, 1.0))
            if decide(Pairs(*found.tolist()), share_above, zone, ERRORS) is not Decision.UNDECIDED:
                break
        lower, upper = bounds(Pairs(*found.tolist()), share_above, (0.0, 1.0), ERRORS)
        missed += not lower <= 0.04 <= upper
    assert missed <= 30
