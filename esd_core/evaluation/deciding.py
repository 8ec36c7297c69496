"""What the gates say of a report so far: passed, failed, or undecided until more images are made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from esd_core.evaluation.calibration import calibrated
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.evaluation.sequential import (
    Decision,
    Errors,
    Pairs,
    Payoffs,
    broken_above,
    decide,
    drop_above,
    share_above,
)

if TYPE_CHECKING:
    from esd_core.evaluation.gates import Gates


def erased_decisions(report: EvaluationReport, gates: Gates) -> dict[str, Decision]:
    """Each probe's own."""
    limit = gates.erased_at_most

    def decision(probe: ProbeResult) -> Decision:
        if limit >= 1:
            return Decision.PASSED
        if not gates.sequential:
            shown = probe.hits_before or probe.hits_after
            return _fixed(probe.remaining, limit) if shown else Decision.UNDECIDED
        return _tested(probe.pairs, report, gates, share_above, limit)

    return {probe.probe: decision(probe) for probe in report.erased}


def coherent_decisions(report: EvaluationReport, gates: Gates) -> dict[str, Decision]:
    """Each probe's own; what was not measured stays undecided."""
    limit = gates.coherent_at_least

    def decision(probe: ProbeResult) -> Decision:
        if not limit:
            return Decision.PASSED
        if probe.coherent is None:
            return Decision.UNDECIDED
        if not gates.sequential:
            return _fixed(limit, probe.coherent.after)
        return _tested(probe.coherent.pairs, report, gates, broken_above, 1 - limit)

    return {probe.probe: decision(probe) for probe in report.erased}


def others_decision(report: EvaluationReport, gates: Gates) -> Decision:
    limit = gates.others_drop_at_most
    if limit >= 1:
        return Decision.PASSED
    if not gates.sequential:
        return _fixed(report.mean_drop_of_others, limit)
    return _tested(report.pairs_of_others, report, gates, drop_above, limit)


def _tested(pairs: Pairs, report: EvaluationReport, gates: Gates, above: Payoffs, limit: float) -> Decision:
    """About the others together, or one probe of the erased concept, of which one that fails is enough.

    Each of those gets its part of the error.
    """
    step, tests = (len(report.others), 1) if above is drop_above else (1, len(report.erased))
    zone, errors = gates.zone(limit), Errors(gates.wrong_pass, gates.wrong_fail / tests)
    return decide(pairs, above, zone, calibrated(above, zone, errors, step, step * report.images_per_probe))


def _fixed(measured: float, limit: float) -> Decision:
    return Decision.PASSED if measured <= limit else Decision.FAILED


def together(decisions: Iterable[Decision]) -> Decision:
    """The worst of several: failed, else undecided, else passed."""
    found = set(decisions)
    return next((d for d in (Decision.FAILED, Decision.UNDECIDED) if d in found), Decision.PASSED)
