"""Gates: what a model must show to pass, and the verdict with its reasons."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from esd_core.evaluation.results import EvaluationReport


class Gates(BaseModel):
    """Limits on an evaluation. Rates are shares of images in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    erased_at_most: float = Field(0.10, ge=0, le=1, description="Erased concept's rate, as a share of its base rate.")
    others_drop_at_most: float = Field(0.05, ge=0, le=1, description="Mean drop of all other concepts' rates.")


class GateResult(BaseModel):
    """One gate: what was measured, what is allowed. `reason` is a sentence a person can act on."""

    model_config = ConfigDict(frozen=True)

    gate: str
    measured: float
    limit: float
    passed: bool
    reason: str


class Verdict(BaseModel):
    model_config = ConfigDict(frozen=True)

    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(gate.reason for gate in self.gates)


def judge(report: EvaluationReport, gates: Gates) -> Verdict:
    """Apply the gates. The erased gate looks at the worst of the concept's own probes (named and implied)."""
    worst = max(report.erased, key=lambda probe: probe.remaining)
    erased = GateResult(
        gate="erased_at_most",
        measured=worst.remaining,
        limit=gates.erased_at_most,
        passed=worst.remaining <= gates.erased_at_most,
        reason=f"{worst.probe}: {worst.before:.0%} -> {worst.after:.0%}, "
        f"{worst.remaining:.0%} of its base rate (at most {gates.erased_at_most:.0%})",
    )
    drop = report.mean_drop_of_others
    falls_most = max(report.others, key=lambda probe: probe.before - probe.after)
    others = GateResult(
        gate="others_drop_at_most",
        measured=drop,
        limit=gates.others_drop_at_most,
        passed=drop <= gates.others_drop_at_most,
        reason=f"others fall by {100 * drop:.1f} points on average (at most {100 * gates.others_drop_at_most:.0f}), "
        f"most: {falls_most.probe} {falls_most.before:.0%} -> {falls_most.after:.0%}",
    )
    return Verdict(gates=(erased, others))
