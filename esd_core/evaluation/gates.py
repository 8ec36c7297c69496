"""Gates: what a model must show to pass, when enough images have been seen, and the verdict with its reasons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from esd_core.errors import EvaluationError
from esd_core.evaluation.deciding import coherent_decisions, erased_decisions, others_decision, together
from esd_core.evaluation.intervals import Interval
from esd_core.evaluation.results import EvaluationReport, ProbeResult, coherent_bounds
from esd_core.evaluation.sequential import Decision, Errors, Zone

if TYPE_CHECKING:
    from esd_core.evaluation.suite import Suite

COHERENT = "coherent_at_least"  # the one gate whose limit is a least
NEVER_SHOWN = "the base never shows it either: give the probe prompts that it answers with it, or another label; "
NARROWEST = 0.01  # half of a zone's width, at least: a limit of 0 is not tested in endless images


class Gates(BaseModel):
    """Limits on an evaluation, and how surely they are kept. Rates are shares of images in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    erased_at_most: float = Field(0.10, ge=0, le=1, description="Erased concept's rate, as a share of its base rate.")
    others_drop_at_most: float = Field(0.05, ge=0, le=1, description="Mean drop of all other concepts' rates.")
    coherent_at_least: float = Field(
        0.0, ge=0, le=1, description="Share of the erased concept's images that are pictures at all; 0: not asked for."
    )
    sequential: bool = Field(True, description="Make images until each gate is decided, instead of a fixed number.")
    indifference: float = Field(
        0.25, ge=0.05, lt=1, description="Share of a limit by which a model may miss it and still be judged either way."
    )
    wrong_pass: float = Field(0.05, gt=0, lt=0.5, description="Most that a gate may pass of models beyond the zone.")
    wrong_fail: float = Field(0.05, gt=0, lt=0.5, description="Most that a gate may fail of models below the zone.")

    @property
    def errors(self) -> Errors:
        return Errors(self.wrong_pass, self.wrong_fail)

    def check(self, suite: Suite) -> None:
        """Raises EvaluationError for a gate whose figure the suite does not measure."""
        if self.coherent_at_least and suite.coherence is None:
            raise EvaluationError(
                "the gate coherent_at_least needs a suite that says what pictures look like: "
                "give the suite a 'coherence' entry (docs/judges.md), or set the gate to 0"
            )

    def zone(self, limit: float) -> Zone:
        """The indifference zone around a limit."""
        half = max(self.indifference * limit, NARROWEST)
        return Zone(max(0.0, limit - half), limit + half)


class GateResult(BaseModel):
    """One gate: what was measured, what is allowed. `reason` is a sentence a person can act on.

    `bounds`: of the measured figure, whenever one stops; wider than what decides about the one limit. `images`: of the
    edited model, that the gate was decided by.
    """

    model_config = ConfigDict(frozen=True)

    gate: str
    measured: float
    bounds: Interval
    limit: float
    decision: Decision
    images: int
    reason: str

    @property
    def passed(self) -> bool:
        return self.decision is Decision.PASSED


class Verdict(BaseModel):
    """What each gate says, and what was asked of them."""

    model_config = ConfigDict(frozen=True)

    gates: tuple[GateResult, ...]
    asked: Gates = Gates()

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(gate.reason for gate in self.gates)


def judge(report: EvaluationReport, gates: Gates) -> Verdict:
    """Apply the gates: those of the erased concept to the worst of its probes, the other to the mean of the rest."""
    coherent = (_coherent(report, gates),) if gates.coherent_at_least else ()
    return Verdict(gates=(_erased(report, gates), _others(report, gates), *coherent), asked=gates)


def undecided_probes(report: EvaluationReport, gates: Gates) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The probes, erased and other, of which a gate needs more images."""
    rest = others_decision(report, gates)
    erased = _undecided(erased_decisions(report, gates)) | _undecided(coherent_decisions(report, gates))
    return (
        tuple(probe.probe for probe in report.erased if probe.probe in erased),
        tuple(probe.probe for probe in report.others) if rest is Decision.UNDECIDED else (),
    )


def _undecided(decisions: dict[str, Decision]) -> set[str]:
    """The probes that a gate waits for: none when another one has failed it."""
    if together(decisions.values()) is not Decision.UNDECIDED:
        return set()
    return {name for name, decision in decisions.items() if decision is Decision.UNDECIDED}


def _erased(report: EvaluationReport, gates: Gates) -> GateResult:
    decisions, limit = erased_decisions(report, gates), gates.erased_at_most
    decision = together(decisions.values())
    decisive = [probe for probe in report.erased if decisions[probe.probe] is decision]
    worst = max(decisive, key=lambda probe: probe.remaining)
    bounds = worst.remaining_bounds(gates.errors)
    return GateResult(
        gate="erased_at_most",
        measured=worst.remaining,
        bounds=bounds,
        limit=limit,
        decision=decision,
        images=sum(probe.images for probe in report.erased),
        reason=f"{worst.probe}: {worst.before:.0%} -> {worst.after:.0%}, {worst.remaining:.0%} of its base rate "
        f"(at most {limit:.0%}{_zone(gates, limit)}), surely {bounds.lower:.0%} to {bounds.upper:.0%}; "
        + (NEVER_SHOWN if worst.hits_before + worst.hits_after == 0 and decision is Decision.UNDECIDED else "")
        + _stopped(decision, report.erased, report.images_per_probe),
    )


def _others(report: EvaluationReport, gates: Gates) -> GateResult:
    drop, limit, decision = report.mean_drop_of_others, gates.others_drop_at_most, others_decision(report, gates)
    most = max(report.others, key=lambda probe: probe.before - probe.after)
    falls = f", most: {most.probe} {most.before:.0%} -> {most.after:.0%}" if most.after < most.before else ""
    bounds = report.drop_bounds(gates.errors)
    return GateResult(
        gate="others_drop_at_most",
        measured=drop,
        bounds=bounds,
        limit=limit,
        decision=decision,
        images=sum(probe.images for probe in report.others),
        reason=f"others fall by {100 * drop:.1f} points on average (at most "
        f"{100 * limit:.0f}{_zone(gates, limit)}), surely "
        f"{100 * bounds.lower:.1f} to {100 * bounds.upper:.1f}{falls}; "
        + _stopped(decision, report.others, report.images_per_probe),
    )


def _coherent(report: EvaluationReport, gates: Gates) -> GateResult:
    decisions, limit = coherent_decisions(report, gates), gates.coherent_at_least
    decision = together(decisions.values())
    measured = {probe.probe: probe.coherent for probe in report.erased if probe.coherent}
    decisive = [name for name in measured if decisions[name] is decision]
    if not decisive:
        return GateResult(
            gate=COHERENT,
            measured=0.0,
            bounds=Interval(lower=0.0, upper=1.0),
            limit=limit,
            decision=Decision.UNDECIDED,
            images=0,
            reason="coherence was not measured when these images were made: not passed; approve it by hand, or erase "
            "again with another seed and a suite that has a 'coherence' entry",
        )
    worst = min(decisive, key=lambda name: measured[name].after)
    found = measured[worst]
    bounds = coherent_bounds(found.pairs, gates.errors)
    broken = found.images - found.hits_after
    return GateResult(
        gate=COHERENT,
        measured=found.after,
        bounds=bounds,
        limit=limit,
        decision=decision,
        images=sum(counts.images for counts in measured.values()),
        reason=f"{worst}: {broken} of {found.images} images are no pictures (flat, noise or fragments), "
        f"{found.before:.0%} -> {found.after:.0%} are (at least {limit:.0%}{_zone(gates, 1 - limit)}), "
        f"surely {bounds.lower:.0%} to {bounds.upper:.0%}; "
        + _stopped(decision, report.erased, report.images_per_probe),
    )


def _zone(gates: Gates, limit: float) -> str:
    """Half of the zone's width in percent or points, for a sequential gate that is not passed by everything."""
    return f" ± {100 * (gates.zone(limit).high - limit):.2g}" if gates.sequential and limit < 1 else ""


def _stopped(decision: Decision, probes: Iterable[ProbeResult], most: int) -> str:
    """Why no more images were made, and what helps if they were too few; recorded images may be judged by new gates."""
    counts = [probe.images for probe in probes]
    if decision is not Decision.UNDECIDED:
        return f"decided by {sum(counts)} images"
    more = f" and images_per_probe above {most}" if max(counts) >= most else ", and more images are made"
    return f"undecided by {sum(counts)} images: not passed; approve it by hand, or erase again with another seed{more}"
