"""What an evaluation found: one row per probe, before and after. Written as evaluation.json, see docs/verdict.md.

The JSON also holds what is derived here, for readers without this code; when it is read again, it is derived anew.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from esd_core.evaluation.intervals import Interval, paired_difference, wilson
from esd_core.evaluation.sequential import Errors, Pairs, bounds, drop_above, share_above

ONE_IN_TWENTY = Errors(0.05, 0.05)


class ProbeResult(BaseModel):
    """In how many images the concept is seen: the same prompts and seeds, with the base and with the edited weights."""

    model_config = ConfigDict(frozen=True)

    probe: str  # readable and unique in its suite, e.g. "sun, implied"
    concept: str
    implied: bool  # the prompts do not name the concept
    both: int = Field(ge=0)
    only_before: int = Field(ge=0)
    only_after: int = Field(ge=0)
    neither: int = Field(ge=0)

    @property
    def pairs(self) -> Pairs:
        return Pairs(self.both, self.only_before, self.only_after, self.neither)

    @property
    def images(self) -> int:
        return sum(self.pairs)

    @property
    def hits_before(self) -> int:
        return self.both + self.only_before

    @property
    def hits_after(self) -> int:
        return self.both + self.only_after

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

    @property
    def before_interval(self) -> Interval:
        return wilson(self.hits_before, self.images)

    @property
    def after_interval(self) -> Interval:
        return wilson(self.hits_after, self.images)

    @property
    def change_interval(self) -> Interval:
        """Of after - before."""
        return paired_difference(self.only_before, self.only_after, self.images)

    def remaining_bounds(self, errors: Errors = ONE_IN_TWENTY) -> Interval:
        """What the sequential test has not ruled out yet for `remaining`."""
        lower, upper = bounds(self.pairs, share_above, (0.0, max(1.0, self.remaining)), errors)
        return Interval(lower=lower, upper=upper)

    @model_serializer(mode="wrap")
    def _with_figures(self, own: SerializerFunctionWrapHandler) -> dict[str, Any]:
        figures = {"images": self.images, "before": self.before, "after": self.after}
        intervals = {name: getattr(self, name).model_dump() for name in _INTERVALS}
        return {**own(self), **figures, **intervals}


_INTERVALS = ("before_interval", "after_interval", "change_interval")


class EvaluationReport(BaseModel):
    """An evaluation of one set of edited weights. `erased` are the probes of the erased concept; `others` all else."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[2] = 2  # 1 had no pairs, hence no intervals
    concept: str
    base_digest: str
    weights_digest: str
    suite_digest: str
    images_per_probe: int  # at most
    erased: tuple[ProbeResult, ...] = Field(min_length=1)
    others: tuple[ProbeResult, ...] = Field(min_length=1)

    @property
    def worst(self) -> ProbeResult:
        """The erased concept's probe of which most is left."""
        return max(self.erased, key=lambda probe: probe.remaining)

    @property
    def mean_drop_of_others(self) -> float:
        """Mean of before - after over the other probes, in [-1, 1]."""
        return sum(probe.before - probe.after for probe in self.others) / len(self.others)

    @property
    def pairs_of_others(self) -> Pairs:
        """The other probes' pairs together; each has the same number of images."""
        return Pairs(*(sum(counts) for counts in zip(*(probe.pairs for probe in self.others), strict=True)))

    def drop_bounds(self, errors: Errors = ONE_IN_TWENTY) -> Interval:
        """What the sequential test has not ruled out yet for the mean drop of the others."""
        lower, upper = bounds(self.pairs_of_others, drop_above, (-1.0, 1.0), errors)
        return Interval(lower=lower, upper=upper)

    @property
    def metrics(self) -> dict[str, float]:
        """Flat figures, as a model registry keeps them."""
        remaining, drop = self.worst.remaining_bounds(), self.drop_bounds()
        return {
            "erased_before": max(probe.before for probe in self.erased),
            "erased_after": max(probe.after for probe in self.erased),
            "erased_remaining": self.worst.remaining,
            "erased_remaining_lower": remaining.lower,
            "erased_remaining_upper": max(probe.remaining_bounds().upper for probe in self.erased),
            "others_before": sum(probe.before for probe in self.others) / len(self.others),
            "others_after": sum(probe.after for probe in self.others) / len(self.others),
            "others_mean_drop": self.mean_drop_of_others,
            "others_mean_drop_lower": drop.lower,
            "others_mean_drop_upper": drop.upper,
            "images": float(sum(probe.images for probe in (*self.erased, *self.others))),
        }

    @model_serializer(mode="wrap")
    def _with_figures(self, own: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**own(self), "metrics": self.metrics}
