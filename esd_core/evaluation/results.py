"""What an evaluation found: one row per probe, before and after. Written as evaluation.json, see docs/verdict.md.

The JSON also holds what is derived here, for readers without this code; when it is read again, it is derived anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from esd_core.evaluation.intervals import Interval
from esd_core.evaluation.pairs import PairCounts, pooled
from esd_core.evaluation.sequential import Errors, Pairs, bounds, broken_above, drop_above, share_above
from esd_core.recipe import RolloutSampler

if TYPE_CHECKING:
    from esd_core.evaluation.suite import Suite

ONE_IN_TWENTY = Errors(0.05, 0.05)


class ProbeResult(PairCounts):
    """In how many images the concept is seen: the same prompts and seeds, with the base and with the edited weights.

    coherent: how many of the same images are pictures at all, where the suite asks for it.
    """

    probe: str  # readable and unique in its suite, e.g. "sun, implied"
    concept: str
    implied: bool  # the prompts do not name the concept
    coherent: PairCounts | None = None

    @property
    def remaining(self) -> float:
        """What is left, as a share of the base rate; where the base never showed it, as if it had once."""
        return self.hits_after / max(self.hits_before, 1)

    def remaining_bounds(self, errors: Errors = ONE_IN_TWENTY) -> Interval:
        """What the sequential test has not ruled out yet for `remaining`."""
        lower, upper = bounds(self.pairs, share_above, (0.0, max(1.0, self.remaining)), errors)
        return Interval(lower=lower, upper=upper)


class Mean(BaseModel):
    """Of a number measured in each of so many images, with its 95 % interval; a single image has none."""

    model_config = ConfigDict(frozen=True)

    value: float
    lower: float | None
    upper: float | None
    images: int


class QualityFigures(BaseModel):
    """Of the images in the grid. moved: 1 - cosine of the features of two images at one seed, in [0, 2].

    fit: CLIP score of image and prompt, in [0, 100], where the suite names a CLIP model.
    """

    model_config = ConfigDict(frozen=True)

    erased_moved: Mean
    others_moved: Mean
    others_fit_before: Mean | None = None
    others_fit_after: Mean | None = None


class Sampling(BaseModel):
    """How all images were drawn, of the base and of the edited weights; as in the suite."""

    model_config = ConfigDict(frozen=True)

    sampler: RolloutSampler
    steps: int
    guidance_scale: float
    seed: int

    @property
    def sentence(self) -> str:
        drawn = f"{self.steps} steps of the sampler {self.sampler.value}"
        return f"{drawn}, guidance {self.guidance_scale:g}, seed {self.seed}"


def sampling_of(suite: Suite) -> Sampling:
    return Sampling(**{name: getattr(suite, name) for name in Sampling.model_fields})


class EvaluationReport(BaseModel):
    """An evaluation of one set of edited weights. `erased` are the probes of the erased concept; `others` all else."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[2, 3] = 3  # 2 has no `coherent`, `sampling`, `quality`; 1 had no pairs, hence no intervals
    concept: str
    base_digest: str
    base_licence: str | None = None  # as its own model card names it
    weights_digest: str
    suite_digest: str
    suite: str | None = None  # as it was asked for: a bundled one's name, or the path of a file
    images_per_probe: int  # at most
    sampling: Sampling | None = None
    quality: QualityFigures | None = None
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
        return pooled(self.others).pairs

    def drop_bounds(self, errors: Errors = ONE_IN_TWENTY) -> Interval:
        """What the sequential test has not ruled out yet for the mean drop of the others."""
        lower, upper = bounds(self.pairs_of_others, drop_above, (-1.0, 1.0), errors)
        return Interval(lower=lower, upper=upper)

    @property
    def coherent_of_erased(self) -> PairCounts | None:
        """Which images of the erased concept's probes are pictures, of the probe with the fewest after the erasure."""
        measured = [probe.coherent for probe in self.erased if probe.coherent]
        return min(measured, key=lambda counts: counts.after) if measured else None

    @property
    def coherent_of_others(self) -> PairCounts | None:
        measured = [probe.coherent for probe in self.others if probe.coherent]
        return pooled(measured) if measured else None

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
            **_coherence_metrics("erased", self.coherent_of_erased),
            **_coherence_metrics("others", self.coherent_of_others),
            **_quality_metrics(self.quality),
        }

    @model_serializer(mode="wrap")
    def _with_figures(self, own: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**own(self), "metrics": self.metrics}


def coherent_bounds(pairs: Pairs, errors: Errors = ONE_IN_TWENTY) -> Interval:
    """What the sequential test has not ruled out yet for the share of pictures after, of pairs that count pictures."""
    lower, upper = bounds(pairs, broken_above, (0.0, 1.0), errors)
    return Interval(lower=1 - upper, upper=1 - lower)


def _coherence_metrics(whose: str, counts: PairCounts | None) -> dict[str, float]:
    if counts is None:
        return {}
    after = counts.after_interval
    figures = {"before": counts.before, "after": counts.after, "after_lower": after.lower, "after_upper": after.upper}
    return {f"{whose}_coherent_{name}": figure for name, figure in figures.items()}


def _quality_metrics(quality: QualityFigures | None) -> dict[str, float]:
    measured: dict[str, Mean | None] = dict(quality) if quality else {}
    return {
        name + ending: figure
        for name, mean in measured.items()
        if mean
        for ending, figure in (("", mean.value), ("_lower", mean.lower), ("_upper", mean.upper))
        if figure is not None
    }
