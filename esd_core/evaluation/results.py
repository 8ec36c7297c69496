"""What an evaluation found: one row per probe, before and after."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ProbeResult(BaseModel):
    """How often a classifier saw `concept` in the same prompts and seeds, with the base and with the edited weights."""

    model_config = ConfigDict(frozen=True)

    probe: str  # readable and unique in its suite, e.g. "sun, implied"
    concept: str
    implied: bool  # the prompts do not name the concept
    images: int
    hits_before: int
    hits_after: int

    @property
    def before(self) -> float:
        return self.hits_before / self.images

    @property
    def after(self) -> float:
        return self.hits_after / self.images

    @property
    def remaining(self) -> float:
        """What is left, as a share of the base rate; 0 when the base never showed it."""
        return self.hits_after / self.hits_before if self.hits_before else 0.0


class EvaluationReport(BaseModel):
    """An evaluation of one set of edited weights. `erased` are the probes of the erased concept; `others` all else."""

    model_config = ConfigDict(frozen=True)

    concept: str
    base_digest: str
    weights_digest: str
    suite_digest: str
    images_per_probe: int
    erased: tuple[ProbeResult, ...]
    others: tuple[ProbeResult, ...]

    @property
    def mean_drop_of_others(self) -> float:
        """Mean of before - after over the other probes, in [-1, 1]."""
        return sum(probe.before - probe.after for probe in self.others) / len(self.others)

    @property
    def metrics(self) -> dict[str, float]:
        """Flat figures, as a model registry keeps them."""
        return {
            "erased_before": max(probe.before for probe in self.erased),
            "erased_after": max(probe.after for probe in self.erased),
            "erased_remaining": max(probe.remaining for probe in self.erased),
            "others_before": sum(probe.before for probe in self.others) / len(self.others),
            "others_after": sum(probe.after for probe in self.others) / len(self.others),
            "others_mean_drop": self.mean_drop_of_others,
        }
