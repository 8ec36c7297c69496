"""Counts of pairs of images at equal seeds, before and after an erasure, with their rates and intervals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from esd_core.evaluation.intervals import Interval, paired_difference, wilson
from esd_core.evaluation.sequential import Pairs

_INTERVALS = ("before_interval", "after_interval", "change_interval")


class PairCounts(BaseModel):
    """How many pairs show something in both images, only with the base, only with the edited weights, or in neither."""

    model_config = ConfigDict(frozen=True)

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
    def before_interval(self) -> Interval:
        return wilson(self.hits_before, self.images)

    @property
    def after_interval(self) -> Interval:
        return wilson(self.hits_after, self.images)

    @property
    def change_interval(self) -> Interval:
        """Of after - before."""
        return paired_difference(self.only_before, self.only_after, self.images)

    @model_serializer(mode="wrap")
    def _with_figures(self, own: SerializerFunctionWrapHandler) -> dict[str, Any]:
        figures = {"images": self.images, "before": self.before, "after": self.after}
        intervals = {name: getattr(self, name).model_dump() for name in _INTERVALS}
        return {**own(self), **figures, **intervals}


def pooled(counts: Iterable[PairCounts]) -> PairCounts:
    """All pairs together; of equally many images each, its rates are their means."""
    both, only_before, only_after, neither = (sum(column) for column in zip(*(c.pairs for c in counts), strict=True))
    return PairCounts(both=both, only_before=only_before, only_after=only_after, neither=neither)
